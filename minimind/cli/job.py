"""One job of a multirun: a child process that gets the signals sent to us, and time to obey them."""

import os
import signal
import subprocess
import threading
import time
from types import FrameType

from minimind.runs.states import Exit
from minimind.runs.stop import PARENT, SIGNALS
from minimind.utils.child import search_path

_received: list[int] = []  # once asked to stop, no further job is begun


def run_job(command: list[str]) -> int:
    """The exit code of `command`, which has a session of its own: a Ctrl-C reaches it once, through us."""
    if _received:
        return Exit.PREEMPTED
    environment = {**os.environ, "PYTHONPATH": search_path(), PARENT: str(os.getpid())}
    process = subprocess.Popen(command, start_new_session=True, env=environment)

    def forward(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        process.send_signal(number)

    listening = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, forward) for number in SIGNALS} if listening else {}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else Exit.FAILED


def stop_with(parent: int) -> None:
    """When the process that started this job has gone, the job stops as if asked to: nobody waits for it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch-sweep").start()
