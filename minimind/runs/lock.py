"""One live process tree a run folder: a lock with host, process and heartbeat."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Holds the run for this process; the system releases it even when the process is killed.

    Raises:
        UserError: another live process holds it.
    """
    lock = FileLock(f"{path}.held", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = read_json(path) if path.is_file() else {}
        raise UserError(
            f"Only one process may work in {path.parent}, but process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')} does; wait for it, stop it, or start another run with run.tag=…"
        ) from None
    try:
        write_json(path, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a live process works in the run."""
    lock = FileLock(f"{path}.held", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
