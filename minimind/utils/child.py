"""Child processes: how one of ours is started, told to stop, and notices that its parent has gone.

A child that is spoken to through a pipe needs no watch: the pipe ends with its parent.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from minimind.utils.paths import PACKAGE

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # they ask to stop; the last is SLURM's early warning
PARENT = "MINIMIND_PARENT"  # in a child's environment: who started it
GLANCE_S = 0.5  # between two looks


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`.

    -P, because Python would first look in the current directory, and that may be somebody else's folder: a `random.py`
    in it would run in place of the library's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def search_path() -> str:
    """PYTHONPATH for a child that is to import this very package, from a clone that is not installed, too."""
    before = os.environ.get("PYTHONPATH", "")
    ours = str(PACKAGE.parent)
    return before if ours in before.split(os.pathsep) else os.pathsep.join([ours, *([before] if before else [])])


def environment(**variables: str) -> dict[str, str]:
    """What a child gets: our own, how it finds this package, who its parent is, and `variables`."""
    return {**os.environ, "PYTHONPATH": search_path(), PARENT: str(os.getpid()), **variables}


def start(
    command: list[str], *, log: Path | None = None, cores: Collection[int] = (), **options: Any
) -> "subprocess.Popen[bytes]":
    """Starts `command` in a session of its own: what is typed at the terminal, such as Ctrl-C, reaches us alone.

    Args:
        log: takes what the child says, after what is in it already.
        cores: of the CPU, which it may use; none: all that we may.
        options: of `subprocess.Popen`; without `env` it gets `environment()`.
    """
    with contextlib.ExitStack() as opened:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            options |= {"stdout": opened.enter_context(log.open("ab")), "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, start_new_session=True, **{"env": environment(), **options})
    if cores:
        os.sched_setaffinity(child.pid, cores)  # long before it counts them
    return child


class Children:
    """Those to whom a signal that we get is passed on, also while they are being started; see `signals_to`."""

    def __init__(self) -> None:
        self.received = 0  # the last signal that asked us to stop
        self._told: dict[subprocess.Popen[bytes], int] = {}  # which signal each was sent last

    def start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """As `start` above."""
        child = start(command, **options)
        self._told[child] = 0
        if self._told[child] != self.received:  # it came before the line above
            self._tell(child)
        return child

    def pass_on(self, number: int) -> None:
        self.received = number
        for child in self._told:
            self._tell(child)

    def _tell(self, child: "subprocess.Popen[bytes]") -> None:
        self._told[child] = self.received
        child.send_signal(self.received)  # which does nothing once it has ended


@contextlib.contextmanager
def signals_to(receive: Callable[[int], None]) -> Iterator[None]:
    """Calls `receive` with each of SIGNALS that comes meanwhile, in the main thread: Python hears none in another."""
    listening = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, lambda n, _: receive(n)) for number in SIGNALS} if listening else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(*_: object) -> None:
    """For a helper of a run, such as a loader's process: the run decides when it ends, and needs it until then."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(number: int) -> None:
    """When the process of ours that started this one has gone, this one gets `number`: nobody waits for it."""
    if (parent := os.environ.get(PARENT)) is not None:
        when(lambda: os.getppid() != int(parent), lambda: os.kill(os.getpid(), number))


def when(happened: Callable[[], bool], act: Callable[[], None]) -> None:
    """Looks from a thread, which a main thread that is stuck, as in a collective, cannot stop."""

    def watch() -> None:
        while not happened():
            time.sleep(GLANCE_S)
        act()

    threading.Thread(target=watch, daemon=True, name="watch").start()
