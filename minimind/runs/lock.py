"""One live process tree a run folder: a lock of the system's on this machine, a heartbeat for the others."""

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json
from minimind.utils.terminal import say

BEAT_S = 20.0
LIFELESS_S = 60.0  # without a beat, watched from here: clocks of two machines need not agree
STALE_S = 600.0  # old enough to be believed without watching, even with clocks that are minutes apart


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Holds the run for this process, and beats in `path` until it is released.

    The system's lock ends with its process, even one that was killed, but a shared file system may not show it to
    other machines. So a holder elsewhere counts as alive as long as its heartbeat moves.

    Raises:
        UserError: another live process holds it.
    """
    held = path.with_name(f"{path.name}.held")
    lock = FileLock(held, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _refusal(path, read_json(path) if path.is_file() else {}) from None
    except NotImplementedError:  # a file system without locks: the heartbeat alone
        pass
    try:
        if path.is_file():
            _outwait(path)
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        write_json(path, {**mine, "heartbeat": time.time()})
        ended = threading.Event()
        heart = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True, name="run-lock")
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()
            path.unlink(missing_ok=True)
    finally:
        if list(path.parent.iterdir()) == [held]:  # refused before anything was written
            shutil.rmtree(path.parent)
        lock.release()


def _beat(path: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):  # a full disk: the next beat may get through
            write_json(path, {**mine, "heartbeat": time.time()})


def _outwait(path: Path) -> None:
    """Returns when the holder on another machine is known to be gone.

    Raises:
        UserError: its heart beats.
    """
    holder = read_json(path)
    if holder.get("host") == socket.gethostname():
        return  # the system's lock was free
    age = time.time() - holder.get("heartbeat", 0.0)
    if age < STALE_S:
        say(
            f"{path.parent.name}: process {holder.get('pid')} on {holder.get('host')} worked here {max(0, age):.0f} s "
            f"ago; watching for {LIFELESS_S:.0f} s whether it still does.",
            file=sys.stderr,
        )  # fmt: skip
        end = time.monotonic() + LIFELESS_S
        while time.monotonic() < end:
            time.sleep(min(1.0, LIFELESS_S / 10))
            if not path.is_file():
                return
            now = read_json(path)
            if now != holder:
                raise _refusal(path, now)
    say(f"{path.parent.name}: taken over from {holder.get('host')}, which is silent.", file=sys.stderr)


def _refusal(path: Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"Only one process may work in {path.parent}, but process {holder.get('pid', '?')} on "
        f"{holder.get('host', '?')} does; wait for it, stop it, or start another run with run.tag=…"
    )


def is_held(path: Path) -> bool:
    """Whether a live process works in the run, as far as can be seen at once."""
    try:
        holder = read_json(path)
    except FileNotFoundError:
        return False
    if holder.get("host") != socket.gethostname():
        return time.time() - holder.get("heartbeat", 0.0) < STALE_S
    lock = FileLock(path.with_name(f"{path.name}.held"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
