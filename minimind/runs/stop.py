"""Stop requests: a signal handler only sets a flag, and the run saves and stops at its next step."""

import os
import signal
import sys
import time
from types import FrameType

from minimind.runs.states import Exit
from minimind.utils.child import SIGNALS
from minimind.utils.ranks import is_main_process
from minimind.utils.terminal import say


class StopRequest:
    """Remembers the last stop signal.

    Args:
        since: start time of the run, from `time.time`; None: now.
    """

    def __init__(self, since: float | None = None) -> None:
        self.received = 0  # the signal's number
        self.since = time.time() if since is None else since

    def listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def stop_listening(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            exit_now()
        if not self.received and is_main_process():
            name = signal.Signals(number).name
            say(f"\n{name}: saving a checkpoint at the next step.", file=sys.stderr)
        self.received = number


def exit_now() -> None:
    """Exit on the second Ctrl-C, without saving or any clean-up that could hang."""
    say("\nStopped immediately; the same command resumes from the last checkpoint.", file=sys.stderr)
    os._exit(Exit.PREEMPTED)
