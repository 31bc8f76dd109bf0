"""The lock of a run folder: a file lock for processes on this machine, a heartbeat for those on others."""

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

HEARTBEAT_S = 20.0
SILENT_S = 60.0  # how long to watch another machine's heartbeat, as the clocks may differ
STALE_S = 600.0  # a heartbeat of this age is dead even if the clocks differ by minutes


@contextmanager
def run_lock(path: Path, renamed_to: Path | None = None) -> Iterator[None]:
    """Lock the run folder for this process, and update the heartbeat in `path` until it is released.

    The system releases a file lock when its process ends, even if killed, but a shared file system may not show it to
    other machines. So a holder on another machine counts as alive while its heartbeat changes. The lock belongs to the
    folder, not to its path: its holder may rename the folder, and the lock files are still removed from it.

    Args:
        renamed_to: the path of the lock file after a planned rename of the folder; the heartbeat continues there.

    Raises:
        UserError: another live process holds the lock, or the folder is not writable.
    """
    folder = _open_folder(path.parent)
    lock = FileLock(_system_lock(path), timeout=0)
    try:
        for file in (path, _system_lock(path)):
            refuse_link(file)
        try:
            lock.acquire()
        except Timeout:
            raise _refusal(path, _holder(path)) from None
        except NotImplementedError:  # a file system without locks: rely on the heartbeat
            pass
        except OSError as error:
            raise _not_writable(path.parent, error) from None
        if file_identity(path.parent) != _identity(folder):  # renamed in the meantime: this is the lock of another run
            raise _refusal(path, _holder(path))
        if path.is_file():
            _wait_until_silent(path)
        with _heartbeat(path, renamed_to):
            yield
    finally:
        if lock.is_locked:
            if file_identity(path.parent) == _identity(folder):
                _remove_if_empty(path)
            lock.release()
        os.close(folder)


def _system_lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _open_folder(folder: Path) -> int:
    """Create the folder if necessary and return a file descriptor of it.

    Raises:
        UserError: it cannot be created or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> UserError:
    path = Path(error.filename or folder)
    dangling = path.is_symlink() and not path.exists()
    reason = f"{path} is a symbolic link to {path.readlink()}, which does not exist" if dangling else f"{error}"
    return UserError(f"{folder} must be a writable folder, but is not: {reason}.")


def _remove_if_empty(path: Path) -> None:
    """Remove the folder of a run that was refused before writing anything; a linked folder stays, empty."""
    if [*path.parent.iterdir()] == [_system_lock(path)]:
        if path.parent.is_symlink():
            _system_lock(path).unlink()
        else:
            shutil.rmtree(path.parent)


def _identity(folder: int) -> tuple[int, int]:
    stat = os.fstat(folder)
    return stat.st_dev, stat.st_ino


@contextmanager
def _heartbeat(path: Path, renamed_to: Path | None) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    write_json(path, {**holder, "heartbeat": time.time()})
    stop = threading.Event()
    paths = [path] if renamed_to is None else [path, renamed_to]
    thread = threading.Thread(target=_beat, args=(paths, _identity(folder), holder, stop), daemon=True, name="run-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.close(folder)


def _beat(paths: list[Path], folder: tuple[int, int], holder: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        for path in paths:
            if file_identity(path.parent) == folder:
                with suppress(OSError):  # a full disk: the next write may succeed
                    write_json(path, {**holder, "heartbeat": time.time()})


def _holder(path: Path) -> dict[str, Any]:
    """Content of the lock file; empty if it is missing or damaged, as the file lock decides."""
    try:
        holder = read_json(path)
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _wait_until_silent(path: Path) -> None:
    """Wait until the holder on another machine is known to be gone.

    Raises:
        UserError: its heartbeat changes.
    """
    holder = _holder(path)
    if holder.get("host") == socket.gethostname():
        return  # the file lock was free
    age = time.time() - holder.get("heartbeat", 0.0)
    if age < STALE_S:
        say(
            f"{path.parent.name}: process {holder.get('pid')} on {holder.get('host')} was active {max(0, age):.0f} s "
            f"ago; waiting {SILENT_S:.0f} s to see whether it still is.",
            file=sys.stderr,
        )  # fmt: skip
        end = time.monotonic() + SILENT_S
        while time.monotonic() < end:
            time.sleep(min(1.0, SILENT_S / 10))
            if not path.is_file():
                return
            current = _holder(path)
            if current != holder:
                raise _refusal(path, current)
    say(f"{path.parent.name}: taking over from {holder.get('host')}, which is silent.", file=sys.stderr)


def _refusal(path: Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"Only one process may use {path.parent}, but process {holder.get('pid', '?')} on "
        f"{holder.get('host', '?')} does; wait for it, stop it, or start another run with run.tag=…"
    )


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock, as far as can be seen without waiting."""
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


def effective_state(stored: str, lock: Path) -> str:
    """The stored state, or `interrupted` if that is `running` but no live process holds the lock."""
    return RunState.INTERRUPTED if stored == RunState.RUNNING and not is_held(lock) else stored
