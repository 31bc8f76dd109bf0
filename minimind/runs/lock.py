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

from minimind.runs.links import refuse_link
from minimind.runs.states import RunState
from minimind.utils.errors import UserError
from minimind.utils.files import file_identity, read_json, write_json
from minimind.utils.terminal import say

BEAT_S = 20.0
LIFELESS_S = 60.0  # without a beat, watched from here: clocks of two machines need not agree
STALE_S = 600.0  # old enough to be believed without watching, even with clocks that are minutes apart


@contextmanager
def run_lock(path: Path, later: Path | None = None) -> Iterator[None]:
    """Holds the run for this process, and beats in `path` until it is released.

    The system's lock ends with its process, even one that was killed, but a shared file system may not show it to
    other machines. So a holder elsewhere counts as alive as long as its heartbeat moves. The lock is the folder's, not
    its name's: who holds it may rename the folder, and then takes the lock's files out of it all the same.

    Args:
        later: where `path` will be, if it is known that the folder is to be renamed: the heart then beats there.

    Raises:
        UserError: another live process holds it, or nothing can be written there.
    """
    folder = _opened(path.parent)
    lock = FileLock(_system_lock(path), timeout=0)
    try:
        for file in (path, _system_lock(path)):
            refuse_link(file)
        try:
            lock.acquire()
        except Timeout:
            raise _refusal(path, _holder(path)) from None
        except NotImplementedError:  # a file system without locks: the heartbeat alone
            pass
        except OSError as error:
            raise _no_place(path.parent, error) from None
        if file_identity(path.parent) != _identity(folder):  # renamed meanwhile: the lock is of another run
            raise _refusal(path, _holder(path))
        if path.is_file():
            _outwait(path)
        with _heartbeat(path, later):
            yield
    finally:
        if lock.is_locked:
            if file_identity(path.parent) == _identity(folder):
                _remove_if_empty(path)
            lock.release()
        os.close(folder)


def _system_lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _opened(folder: Path) -> int:
    """A descriptor of the folder, which is made where there is none.

    Raises:
        UserError: there can be none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _no_place(folder, error) from None


def _no_place(folder: Path, error: OSError) -> UserError:
    where = Path(error.filename or folder)
    dangling = where.is_symlink() and not where.exists()
    why = f"{where} is a symbolic link to {where.readlink()}, which is not there" if dangling else f"{error}"
    return UserError(f"{folder} must be a folder that can be written to, but is not: {why}.")


def _remove_if_empty(path: Path) -> None:
    """A run that was refused before anything was written leaves no folder; where it is a link, an empty one."""
    if [*path.parent.iterdir()] == [_system_lock(path)]:
        if path.parent.is_symlink():
            _system_lock(path).unlink()
        else:
            shutil.rmtree(path.parent)


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


@contextmanager
def _heartbeat(path: Path, later: Path | None) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    write_json(path, {**mine, "heartbeat": time.time()})
    ended = threading.Event()
    places = [path] if later is None else [path, later]
    heart = threading.Thread(target=_beat, args=(places, _identity(folder), mine, ended), daemon=True, name="run-lock")
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.close(folder)


def _beat(places: list[Path], folder: tuple[int, int], mine: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        for path in places:
            if file_identity(path.parent) == folder:  # else another's, or none
                with suppress(OSError):  # a full disk: the next beat may get through
                    write_json(path, {**mine, "heartbeat": time.time()})


def _holder(path: Path) -> dict[str, Any]:
    """What the lock's file says; nothing if it is not there, or damaged: the system's lock decides."""
    try:
        holder = read_json(path)
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _outwait(path: Path) -> None:
    """Returns when the holder on another machine is known to be gone.

    Raises:
        UserError: its heart beats.
    """
    holder = _holder(path)
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
            now = _holder(path)
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
    if not path.is_file() or path.is_symlink() or _system_lock(path).is_symlink():
        return False
    holder = _holder(path)
    if holder.get("host", socket.gethostname()) != socket.gethostname():
        return time.time() - holder.get("heartbeat", 0.0) < STALE_S
    lock = FileLock(_system_lock(path), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def state_seen(stored: str, lock: Path) -> str:
    """The state as stored, or `interrupted` for a run that says it is running while nobody works on it."""
    return RunState.INTERRUPTED if stored == RunState.RUNNING and not is_held(lock) else stored
