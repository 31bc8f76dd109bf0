"""Atomic file writes, JSON, hashes and file identity."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from minimind.utils.errors import DamagedFile, UserError


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside `path`, sync it, and rename it at the end of the block; remove it on an error.

    The folder must exist: one that was deleted or renamed in the meantime must not be recreated for a single file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # left by a killed process of the same PID, or a planted link
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` at the end of the block and removed on an error.

    Its name is unique, so two processes with the same target do not write into the same folder.

    Raises:
        UserError: it cannot be written, or `target` exists by then and is not empty.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", suffix=".tmp", dir=target.parent) as around:
            folder = Path(around, "folder")
            folder.mkdir()  # the temporary folder itself is readable by its owner only
            yield folder
            folder.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{target} must be a new folder that can be written, but: {reason}; choose another.") from None


def refuse_non_empty(folder: Path) -> None:
    """Raises: UserError, if `folder` exists and is not empty, or cannot be created."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"{folder} must be a new folder, but: {error.strerror}; choose another name.") from None
    if taken:
        raise UserError(f"{folder} must be a new folder, but already exists; choose another name.")


def file_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, which a rename keeps and a replacement changes; None: no such file or folder."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def file_hash(path: Path) -> str:
    """SHA-256 of the content, cached until the file changes."""
    stat = path.stat()
    return _file_hash(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _file_hash(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make created and renamed entries of a folder survive a power loss, as fsync does for file content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text.encode())


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value))


def read_json(path: Path, must: str = "JSON") -> Any:
    """Parse a JSON file.

    Args:
        must: what the file must be, for the error message.

    Raises:
        DamagedFile: it cannot be read or is not JSON.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"{path} must be {must}, but cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise _damaged(path, must, str(error)) from None


def read_object(path: Path, must: str | None = None) -> dict[str, Any]:
    """Like `read_json`, for a file that must hold a JSON object."""
    value = read_json(path, must or "JSON")
    if not isinstance(value, dict):
        raise _damaged(path, must or "a JSON object", f"is a {type(value).__name__}")
    return value


def parse_json(data: bytes) -> Any:
    """Raises: ValueError, with a one-line message that does not advise lifting Python's limits."""
    try:
        return json.loads(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it has a number with too many digits") from None


def _damaged(path: Path, must: str, reason: str) -> DamagedFile:
    return DamagedFile(f"{path} must be {must}, but {reason}; replace it with a good copy, or move it away.")
