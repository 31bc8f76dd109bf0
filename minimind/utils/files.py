"""Files that are either whole or not there."""

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
    """Writes beside `path`, syncs, and renames when the block ends well; after an error nothing is left.

    The folder must exist: one that was deleted or renamed meanwhile must not come back with a single file in it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # left by a killed process of this number, or a link that leads elsewhere
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
    """A folder to fill, which becomes `target` when the block ends well; after an error nothing is left.

    Each has a name of its own until then, so that two processes with one target do not write into one folder.

    Raises:
        UserError: the system does not let it be written, or `target` has come to be there and not empty.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", suffix=".tmp", dir=target.parent) as around:
            folder = Path(around, "folder")
            folder.mkdir()  # not the temporary one itself, which nobody else may open
            yield folder
            folder.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{target} must be a new folder that can be written, but: {reason}; choose another.") from None


def refuse_non_empty(folder: Path) -> None:
    """Raises: UserError, if there is something already, or nothing can be."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"{folder} must be a new folder, but: {error.strerror}; choose another name.") from None
    if taken:
        raise UserError(f"{folder} must be a new folder, but is there already; choose another name.")


def file_identity(path: Path) -> tuple[int, int] | None:
    """What stays the same when a file or folder is renamed, and differs in another of its name; None: not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def file_hash(path: Path) -> str:
    """The sha256 of its content; a file that has not been written since is not read again."""
    found = path.stat()
    return _file_hash(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@cache
def _file_hash(path: Path, *_of_this_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlast a loss of power, as fsync does for what is in a file."""
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
    """What the file says; an error says that it `must` be that.

    Raises:
        DamagedFile: it says nothing, in whatever way.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"{path} must be {must}, but cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise _not_as_it_must_be(path, must, str(error)) from None


def read_object(path: Path, must: str | None = None) -> dict[str, Any]:
    """The same for a file with names and values; raises as `read_json` does."""
    value = read_json(path, must or "JSON")
    if not isinstance(value, dict):
        raise _not_as_it_must_be(path, must or "a JSON object", f"is a {type(value).__name__}")
    return value


def parse_json(data: bytes) -> Any:
    """Raises: ValueError, with one line of our own: Python's would recommend lifting its limits."""
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


def _not_as_it_must_be(path: Path, must: str, reason: str) -> DamagedFile:
    return DamagedFile(f"{path} must be {must}, but {reason}; put a whole copy in its place, or move it away.")
