"""A run in its processes: this one alone, one rank of a tree it was started in, or the parent of a tree of its own."""

import signal
import sys
import traceback
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
REQUEUED_AFTER = ("SIGUSR1", "run.max_minutes")  # not after SIGTERM: a job that was cancelled would come back
LINES_SHOWN = 30  # of a traceback; the whole is in the run folder


def run(composed: "DictConfig") -> int:
    """The exit code of a run, in whatever processes it is done."""
    stop = StopRequest()  # the clock starts here
    from minimind.cli.admission import admit
    from minimind.config.plan import plan

    joined = take_layout_of_tree(composed)
    planned = plan(composed)
    if planned.cfg.trainer.devices > 1 and not joined:
        return lead(composed, planned, stop)
    from minimind.parallel.collectives import from_main, join

    join(planned.cfg.trainer.accelerator)
    with ExitStack() as held:
        code = from_main(lambda: admit(planned, held))
        if code is not None:
            return code
        handed = from_main(planned.folder.hand_over)
        if not is_main_process():
            planned.folder.take_over({**handed, "claimed": None})
        try:
            return train(planned, stop)
        except UserError:
            raise
        except RunFailed as error:
            if is_main_process() and _was_begun(planned.folder):
                planned.folder.update_status(state=RunState.FAILED, reason=str(error))
            say(error, file=sys.stderr)
            return Exit.FAILED
        except Exception as error:
            _fail(planned.folder, f"{type(error).__name__}: {error}", traceback.format_exc())
            return Exit.FAILED


def take_layout_of_tree(composed: "DictConfig") -> bool:
    """Whether torchrun or srun has started this process, and then their numbers in the configuration.

    Raises:
        ConfigError: the configuration asks for others.
    """
    from minimind.parallel.environment import joined_tree

    tree, devices = joined_tree(), composed.trainer.devices
    if tree is None:
        if composed.parallel.num_nodes > 1:
            raise ConfigError([
                f"`parallel.num_nodes` must be 1 where train.py starts the processes, but is "
                f"{composed.parallel.num_nodes}; start them with torchrun or srun on every node."
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
    """Prepared data to last figure, as one rank sees it; the exit code of the run."""
    from minimind.cli.quiet import quiet_libraries
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
            _preempted(planned, preempted.reason)
        wait_for_all()  # a launcher ends the others as soon as one has left
        leave()
    except UserError as error:  # such as a shard that is damaged, found when it is first read
        if is_main_process() and session.started and planned.folder.in_place:
            planned.folder.update_status(state=RunState.FAILED, reason=str(error))
        raise
    finally:
        session.close(code)
    return code


def _preempted(planned: "Plan", reason: str) -> None:
    from minimind.parallel.environment import requeue

    path = planned.folder.path
    planned.folder.update_status(state=RunState.PREEMPTED, reason=reason)
    say(f"Stopped by {reason} with a checkpoint in {path}. Run the same command to go on.", file=sys.stderr)
    if planned.cfg.run.requeue and reason in REQUEUED_AFTER:
        requeue()


def _fail(folder: RunFolder, reason: str, text: str) -> None:
    """Says what happened: its end on the terminal, all of it in the folder, where there is one."""
    say("".join(f"{line}\n" for line in text.splitlines()[-LINES_SHOWN:]), end="", file=sys.stderr)
    if _was_begun(folder):
        folder.update_status(state=RunState.FAILED, reason=reason)
        write_text(folder.path / "traceback.txt", f"{text}\n{reason}\n")
        say(f"Failed ({reason.splitlines()[0]}); the whole is in {folder.path / 'traceback.txt'}.", file=sys.stderr)


def _was_begun(folder: RunFolder) -> bool:
    """Whether anything was done: a run that had ended, and could not be gone on with, has ended as it had before."""
    return folder.in_place and folder.status.get("state") == RunState.RUNNING


def lead(composed: "DictConfig", planned: "Plan", stop: StopRequest) -> int:
    """Prepares, so that the ranks only find it, holds the lock for them, starts them, and gives their exit code."""
    from omegaconf import OmegaConf

    from minimind.cli.admission import admit

    cfg, _, folder = planned
    with ExitStack() as held:
        code = admit(planned, held)
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
        return _verdict(folder, outcome, before)


def _verdict(folder: RunFolder, outcome: "Outcome", before: float | None) -> int:
    """Workers that were preempted end with 0, lest the agent takes it for a failure: status.json tells."""
    failure, status = outcome.failure, folder.status
    if failure is not None and failure.code == Exit.BAD_INPUT:
        say(failure.text, file=sys.stderr)
        return Exit.BAD_INPUT
    if failure is not None and not outcome.signal:
        _fail(folder, failure.reason, failure.text)
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
        say(f"Stopped by {name} before a step was done. Run the same command to go on.", file=sys.stderr)
        return Exit.PREEMPTED
    _fail(folder, "the processes ended without finishing", "")
    return Exit.FAILED


def work(path: Path) -> NoReturn:
    """One rank of a tree of our own; see `lead`."""
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
