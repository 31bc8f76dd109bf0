"""Our own tree of processes on this machine, by torch's elastic agent: one worker a device, no one outlives it."""

import logging
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minimind.parallel.worker import TreeFolder
from minimind.runs.states import Exit
from minimind.runs.stop import end_at_once
from minimind.utils.child import environment, signals_to

SAVING_S = 600  # a tree that was told to stop may take for its last checkpoint
LAST_LINES = 20


class Death(NamedTuple):
    """What took the tree down."""

    rank: int
    code: int
    reason: str
    text: str  # the traceback, or what the rank said last


class Outcome(NamedTuple):
    signal: int  # that ended it, 0 if none
    death: Death | None


def run_tree(
    config_yaml: str, since: float, num_processes: int, worker_command: list[str], run: dict[str, Any] | None = None
) -> Outcome:
    """Runs `worker_command FOLDER` in so many ranks; Rank 0 has the terminal.

    Args:
        config_yaml: what FOLDER/config.yaml is to hold.
        since: when the run was started, as of `time.time`.
        run: what the ranks are to know of the run folder.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from minimind.parallel.agent import ONE_NODE

    path = Path(tempfile.mkdtemp(prefix="minimind-tree-"))
    folder = TreeFolder(path)
    folder.write(config_yaml, since, run)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it says is said by us
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=uuid.uuid4().hex, max_restarts=0,
        rdzv_backend=ONE_NODE, local_addr="localhost",  # the workers meet in `TreeFolder.store`: no port is open
        signals_to_handle="SIGQUIT", shutdown_timeout=SAVING_S,  # those of ours: _into_the_agent
        logs_specs=_own_logs(num_processes),
    )  # fmt: skip
    # The agent starts the ranks, each in a session of its own, from this process's environment, and waits for them.
    os.environ.update(environment())
    try:
        with signals_to(_into_the_agent()):
            elastic_launch(config, worker_command[0])(*worker_command[1:], str(path))
        return Outcome(0, None)
    except SignalException as stopped:
        return Outcome(int(stopped.sigval), _first_death(folder, {}))
    except ChildFailedError as error:
        return Outcome(0, _first_death(folder, error.failures))
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _own_logs(num_processes: int) -> Any:
    """None of torch's log files: a rank but the first writes its own (`Worker`)."""
    from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

    class NoFiles(LogsSpecs):
        root_log_dir = os.devnull

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            none = dict.fromkeys(range(num_processes), "")
            return LogsDest(none, none, {}, {}, none, "", "")

    return NoFiles()


def _into_the_agent() -> Callable[[int], None]:
    """The agent passes a signal on when it is raised inside it; its own handlers do not know the second Ctrl-C."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    received = 0

    def receive(number: int) -> None:
        nonlocal received
        if number == signal.SIGINT == received:
            end_at_once()  # the workers notice
        if not received:
            received = number
            raise SignalException(signal.Signals(number).name, signal.Signals(number))

    return receive


def _first_death(folder: TreeFolder, failures: dict[int, Any]) -> Death | None:
    """The rank whose end took the others down: they only lost their peer, or were ended by the agent."""
    said = {failure["rank"]: failure for failure in folder.failures()}
    times = {rank: failure["time"] for rank, failure in said.items()}
    for rank, failure in failures.items():  # seen a moment after, to the second
        times.setdefault(rank, failure.timestamp - 1)
    if not times:
        return None

    def key(rank: int) -> tuple[bool, float]:
        return rank in failures and failures[rank].exitcode == -signal.SIGTERM, times[rank]

    rank = min(times, key=key)
    if rank in said:
        return Death(rank, said[rank]["code"], said[rank]["reason"], said[rank]["text"])
    code = failures[rank].exitcode
    reason = f"rank {rank} was ended by {signal.Signals(-code).name}" if code < 0 else f"rank {rank} ended with {code}"
    return Death(rank, Exit.FAILED, reason, _last_words(folder, rank))


def _last_words(folder: TreeFolder, rank: int) -> str:
    log = folder.log(rank)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "".join(f"{line}\n" for line in lines[-LAST_LINES:])
