"""A request to stop: a signal sets a flag, and the run ends well at its next step. Nothing is saved in a handler."""

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
    """Args:
    since: when the run was started, as of `time.time`; None: now.
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
            end_at_once()
        if not self.received and is_main_process():
            name = signal.Signals(number).name
            say(f"\n{name}: saving a checkpoint at the next step.", file=sys.stderr)
        self.received = number


def end_at_once() -> None:
    """For the second Ctrl-C: no clean-up that could hang, no save; the run goes on from its last checkpoint."""
    say("\nEnded at once; the same command goes on from the last checkpoint.", file=sys.stderr)
    os._exit(Exit.PREEMPTED)
