"""Starting a run's ranks on this machine with torch's elastic agent: one per device, none of which outlives it."""

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
from minimind.runs.stop import exit_now
from minimind.utils.child import environment, signals_to

SHUTDOWN_TIMEOUT_S = 600  # for the last checkpoint after a stop signal
LAST_LINES = 20


class RankFailure(NamedTuple):
    """The failure of the rank that failed first."""

    rank: int
    code: int
    reason: str
    text: str  # the traceback, or the last lines of the rank's log


class Outcome(NamedTuple):
    signal: int  # the stop signal, 0 if none
    failure: RankFailure | None


def run_tree(
    config_yaml: str, since: float, num_processes: int, worker_command: list[str], run: dict[str, Any] | None = None
) -> Outcome:
    """Run `worker_command FOLDER` in `num_processes` ranks, of which rank 0 has the terminal.

    Args:
        config_yaml: content of FOLDER/config.yaml.
        since: start time of the run, from `time.time`.
        run: result of `RunFolder.hand_over`, for the ranks.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from minimind.parallel.agent import ONE_NODE

    path = Path(tempfile.mkdtemp(prefix="minimind-tree-"))
    folder = TreeFolder(path)
    folder.write(config_yaml, since, run)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the caller reports failures
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_processes, run_id=uuid.uuid4().hex, max_restarts=0,
        rdzv_backend=ONE_NODE, local_addr="localhost",  # the ranks meet in `TreeFolder.store`: no port is open
        signals_to_handle="SIGQUIT", shutdown_timeout=SHUTDOWN_TIMEOUT_S,  # the others: _raise_in_agent
        logs_specs=_no_log_files(num_processes),
    )  # fmt: skip
    # The agent starts each rank in its own session with this process's environment, and waits for them.
    os.environ.update(environment())
    try:
        with signals_to(_raise_in_agent()):
            elastic_launch(config, worker_command[0])(*worker_command[1:], str(path))
        return Outcome(0, None)
    except SignalException as stopped:
        return Outcome(int(stopped.sigval), _first_failure(folder, {}))
    except ChildFailedError as error:
        return Outcome(0, _first_failure(folder, error.failures))
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _no_log_files(num_processes: int) -> Any:
    """`LogsSpecs` without log files: the ranks redirect their own output (`RankProcess`)."""
    from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

    class NoFiles(LogsSpecs):
        root_log_dir = os.devnull

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            none = dict.fromkeys(range(num_processes), "")
            return LogsDest(none, none, {}, {}, none, "", "")

    return NoFiles()


def _raise_in_agent() -> Callable[[int], None]:
    """Signal handler that raises in the agent, which forwards the signal; its own handlers ignore a second Ctrl-C."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    received = 0

    def receive(number: int) -> None:
        nonlocal received
        if number == signal.SIGINT == received:
            exit_now()  # the ranks notice
        if not received:
            received = number
            raise SignalException(signal.Signals(number).name, signal.Signals(number))

    return receive


def _first_failure(folder: TreeFolder, failures: dict[int, Any]) -> RankFailure | None:
    """The failure that caused the others, which lost their peer or were terminated by the agent."""
    reported = {failure["rank"]: failure for failure in folder.failures()}
    times = {rank: failure["time"] for rank, failure in reported.items()}
    for rank, failure in failures.items():  # seen by the agent slightly later, with a resolution of 1 s
        times.setdefault(rank, failure.timestamp - 1)
    if not times:
        return None

    def key(rank: int) -> tuple[bool, float]:
        return rank in failures and failures[rank].exitcode == -signal.SIGTERM, times[rank]

    rank = min(times, key=key)
    if rank in reported:
        failure = reported[rank]
        return RankFailure(rank, failure["code"], failure["reason"], failure["text"])
    code = failures[rank].exitcode
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return RankFailure(rank, Exit.FAILED, f"rank {rank} {end}", _last_lines(folder, rank))


def _last_lines(folder: TreeFolder, rank: int) -> str:
    log = folder.log(rank)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "".join(f"{line}\n" for line in lines[-LAST_LINES:])
