"""Child processes: starting them, forwarding signals to them, and ending them when their parent dies.

A child that reads from a pipe needs no watcher: the pipe closes with its parent.
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

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # requests to stop; SLURM sends SIGUSR1 as early warning
PARENT = "MINIMIND_PARENT"  # environment variable of a child: the PID of its parent
POLL_S = 0.5


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`.

    With -P, since Python would otherwise search the current directory first: if that is an untrusted folder, its
    `random.py` would run instead of the standard library's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def search_path() -> str:
    """PYTHONPATH with which a child imports this same package, even from a clone that is not installed."""
    current = os.environ.get("PYTHONPATH", "")
    parent = str(PACKAGE.parent)
    if parent in current.split(os.pathsep):
        return current
    return os.pathsep.join([parent, current] if current else [parent])


def environment(**variables: str) -> dict[str, str]:
    """Environment of a child: this process's own, PYTHONPATH, the parent's PID, and `variables`."""
    return {**os.environ, "PYTHONPATH": search_path(), PARENT: str(os.getpid()), **variables}


def start(
    command: list[str], *, log: Path | None = None, cores: Collection[int] = (), **options: Any
) -> "subprocess.Popen[bytes]":
    """Start `command` in its own session, so that Ctrl-C at the terminal reaches only this process.

    Args:
        log: file to which the child's output is appended.
        cores: CPU cores the child may use; empty: the same as this process.
        options: for `subprocess.Popen`; `env` defaults to `environment()`.
    """
    with contextlib.ExitStack() as opened:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            options |= {"stdout": opened.enter_context(log.open("ab")), "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, start_new_session=True, **{"env": environment(), **options})
    if cores:
        os.sched_setaffinity(child.pid, cores)  # long before the child counts its cores
    return child


class Children:
    """Child processes to which signals are forwarded, even while they are being started; see `signals_to`."""

    def __init__(self) -> None:
        self.received = 0  # the last signal
        self._sent: dict[subprocess.Popen[bytes], int] = {}  # the last signal sent to each child

    def start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Same as the function `start`."""
        child = start(command, **options)
        self._sent[child] = 0
        if self._sent[child] != self.received:  # received before the child was registered
            self._send(child)
        return child

    def pass_on(self, number: int) -> None:
        self.received = number
        for child in self._sent:
            self._send(child)

    def _send(self, child: "subprocess.Popen[bytes]") -> None:
        self._sent[child] = self.received
        child.send_signal(self.received)  # does nothing once the child has exited


@contextlib.contextmanager
def signals_to(receive: Callable[[int], None]) -> Iterator[None]:
    """Call `receive` for each of SIGNALS received within the block. No effect outside the main thread."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, lambda n, _: receive(n)) for number in SIGNALS} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(*_: object) -> None:
    """Ignore SIGNALS in a helper process such as a data loader worker: the run needs it until its last checkpoint."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(number: int) -> None:
    """Send this process the signal `number` when the process that started it with `environment()` is gone."""
    if (parent := os.environ.get(PARENT)) is not None:
        call_when(lambda: os.getppid() != int(parent), lambda: os.kill(os.getpid(), number))


def call_when(condition: Callable[[], bool], action: Callable[[], None]) -> None:
    """Poll `condition` in a thread and call `action` once it holds, even if the main thread hangs in a collective."""

    def watch() -> None:
        while not condition():
            time.sleep(POLL_S)
        action()

    threading.Thread(target=watch, daemon=True, name="watch").start()
