"""Files that are either whole or not there."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Writes beside `path`, syncs, and renames when the block ends well; after an error nothing is left.

    The folder must exist: one that was deleted or renamed meanwhile must not come back with a single file in it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
