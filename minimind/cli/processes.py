"""Runs training in this process, as one rank under torchrun or srun, or as the parent of its own process tree."""

import logging
import os
import signal
import sys
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from minimind.cli.app import explain
from minimind.runs.folder import RunFolder
from minimind.runs.states import Exit, RunState
from minimind.runs.stop import StopRequest
from minimind.utils.child import python_module
from minimind.utils.errors import ConfigError, RunFailed, UserError
from minimind.utils.files import write_text
from minimind.utils.ranks import is_main_process
from minimind.utils.terminal import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minimind.config.plan import Plan
    from minimind.parallel.launch import Outcome

WORKER = "--worker"
REQUEUED_AFTER = ("SIGUSR1", "run.max_minutes")  # not SIGTERM: a cancelled job would be queued again
TRACEBACK_LINES = 30  # printed; the full traceback is in the run folder
IGNORED_WARNINGS = (
    # Lightning's advice on data loaders is for map-style datasets; ours read memory maps
    r".*does not have many workers.*",
    r".*`IterableDataset` has `__len__` defined.*",
    # raised for any validation without self.log; our metrics go through torchmetrics and metrics.jsonl
    r".*You called `self\.log.*",
    r".*`broadcast_buffers` is deprecated.*",  # the oldest supported torch lacks its replacement
    r".*isinstance\(treespec, LeafSpec\).*",
)


def run(composed: "DictConfig") -> int:
    """Runs training in the processes that the configuration asks for, and returns the exit code."""
    stop = StopRequest()  # the clock starts here
    from minimind.cli.admission import admit
    from minimind.config.plan import plan

    joined = adopt_launcher_layout(composed)
    planned = plan(composed)
    if planned.cfg.trainer.devices > 1 and not joined:
        return run_parent(composed, planned, stop)
    from minimind.parallel.collectives import from_main, join

    join(planned.cfg.trainer.accelerator)
    with ExitStack() as locks:
        code = from_main(lambda: admit(planned, locks))
        if code is not None:
            return code
        handover = from_main(planned.folder.hand_over)
        if not is_main_process():
            planned.folder.take_over({**handover, "claimed": None})
        try:
            return train(planned, stop)
        except UserError:
            raise
        except RunFailed as error:
            if is_main_process() and _has_started(planned.folder):
                planned.folder.update_status(state=RunState.FAILED, reason=str(error))
            say(error, file=sys.stderr)
            return Exit.FAILED
        except Exception as error:
            _report_failure(planned.folder, f"{type(error).__name__}: {error}", traceback.format_exc())
            return Exit.FAILED


def adopt_launcher_layout(composed: "DictConfig") -> bool:
    """Whether torchrun or srun started this process; if so, writes their process counts into the configuration.

    Raises:
        ConfigError: the configuration has different counts.
    """
    from minimind.parallel.environment import joined_tree

    tree, devices = joined_tree(), composed.trainer.devices
    if tree is None:
        if composed.parallel.num_nodes > 1:
            raise ConfigError([
                f"`parallel.num_nodes` must be 1 when train.py starts the processes, but is "
                f"{composed.parallel.num_nodes}; start them on every node with torchrun or srun."
            ])  # fmt: skip
        return False
    if devices not in (1, tree.per_node):
        raise ConfigError([
            f"`trainer.devices` must be the number of processes started on each node ({tree.per_node}), but is "
            f"{devices}; leave it out."
        ])  # fmt: skip
    composed.parallel.kind = "ddp"
    composed.trainer.devices, composed.parallel.num_nodes = tree.per_node, tree.num_nodes
    return True


def train(planned: "Plan", stop: StopRequest) -> int:
    """Runs one rank of a training run, and returns the exit code of the run."""
    from minimind.parallel.collectives import leave, wait_for_all

    quiet_libraries()
    from minimind.cli.session import Session
    from minimind.training.callbacks.preemption import Preempted

    session = Session(*planned, stop)
    code = Exit.FAILED
    try:
        session.start()
        session.fit()
        leave()
        if is_main_process():
            session.finish()
        code = Exit.FINISHED
    except Preempted as preempted:
        code = Exit.PREEMPTED
        if is_main_process():
            _record_preemption(planned, preempted.reason)
        wait_for_all()  # a launcher terminates the others as soon as one exits
        leave()
    except UserError as error:  # such as a damaged shard, detected when it is first read
        if is_main_process() and session.started and planned.folder.in_place:
            planned.folder.update_status(state=RunState.FAILED, reason=str(error))
        raise
    finally:
        session.close(code)
    return code


def quiet_libraries() -> None:
    """Silences library messages that users can do nothing about."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else a warning at each fork of a loader's worker
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    import lightning.pytorch  # noqa: F401  sets its loggers to INFO when imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _record_preemption(planned: "Plan", reason: str) -> None:
    from minimind.parallel.environment import requeue

    path = planned.folder.path
    planned.folder.update_status(state=RunState.PREEMPTED, reason=reason)
    say(f"Stopped by {reason} with a checkpoint in {path}. Run the same command to continue.", file=sys.stderr)
    if planned.cfg.run.requeue and reason in REQUEUED_AFTER:
        requeue()


def _report_failure(folder: RunFolder, reason: str, text: str) -> None:
    """Reports a failure: the end of the traceback on the terminal, all of it in the run folder if training began."""
    say("".join(f"{line}\n" for line in text.splitlines()[-TRACEBACK_LINES:]), end="", file=sys.stderr)
    if _has_started(folder):
        folder.update_status(state=RunState.FAILED, reason=reason)
        write_text(folder.path / "traceback.txt", f"{text}\n{reason}\n")
        say(f"Failed ({reason.splitlines()[0]}); full traceback in {folder.path / 'traceback.txt'}.", file=sys.stderr)


def _has_started(folder: RunFolder) -> bool:
    """Whether this command started training; a run that had ended and could not be resumed keeps its state."""
    return folder.in_place and folder.status.get("state") == RunState.RUNNING


def run_parent(composed: "DictConfig", planned: "Plan", stop: StopRequest) -> int:
    """Locks the run folder, prepares the data, starts the ranks, and returns their exit code."""
    from omegaconf import OmegaConf

    from minimind.cli.admission import admit

    cfg, _, folder = planned
    with ExitStack() as locks:
        code = admit(planned, locks)
        if code is not None:
            return code
        from minimind.data.prepare import prepare
        from minimind.parallel.launch import run_tree

        prepare(cfg.data, cfg.tokenizer, Path(cfg.paths.cache))
        before = folder.status.get("updated")
        command = python_module("minimind.cli.train", WORKER)
        frozen = OmegaConf.to_yaml(composed, resolve=True)
        outcome = run_tree(frozen, stop.since, cfg.trainer.devices, command, folder.hand_over())
        folder.update_path()
        return _exit_code(folder, outcome, before)


def _exit_code(folder: RunFolder, outcome: "Outcome", before: float | None) -> int:
    """Preempted ranks exit with 0, since the agent treats other codes as failures; status.json has the state."""
    failure, status = outcome.failure, folder.status
    if failure is not None and failure.code == Exit.BAD_INPUT:
        say(failure.text, file=sys.stderr)
        return Exit.BAD_INPUT
    if failure is not None and not outcome.signal:
        _report_failure(folder, failure.reason, failure.text)
        return Exit.FAILED
    state = status.get("state") if status.get("updated") != before else None
    if state == RunState.FINISHED:
        return Exit.FINISHED
    if state == RunState.PREEMPTED:
        return Exit.PREEMPTED
    if outcome.signal:
        name = signal.Signals(outcome.signal).name
        if folder.in_place and status and status["state"] != RunState.FINISHED:
            folder.update_status(state=RunState.PREEMPTED, reason=name)
        say(f"Stopped by {name} before a step was completed. Run the same command to continue.", file=sys.stderr)
        return Exit.PREEMPTED
    _report_failure(folder, "the processes ended without finishing the run", "")
    return Exit.FAILED


def run_rank(path: Path) -> NoReturn:
    """Runs one rank of our own process tree; see `run_parent`."""
    from minimind.parallel.worker import RankProcess, TreeFolder

    folder = TreeFolder(path)
    worker, stop = RankProcess(folder), StopRequest(folder.since)
    stop.listen()
    try:
        from minimind.config.plan import plan
        from minimind.config.schema import load_stored
        from minimind.parallel.collectives import join

        planned = plan(load_stored(folder.config))
        planned.folder.take_over(folder.run)
        join(planned.cfg.trainer.accelerator, folder.store)
        train(planned, stop)
    except UserError as error:
        worker.fail(error, Exit.BAD_INPUT, explain(error))
    except RunFailed as error:
        worker.fail(error, Exit.FAILED, str(error))
    except KeyboardInterrupt as error:
        worker.fail(error, Exit.PREEMPTED)
    except BaseException as error:
        worker.fail(error, Exit.FAILED)
    worker.finish(Exit.FINISHED)
