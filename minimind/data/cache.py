"""Cache folders: named by a hash of their inputs, built once, and never visible before they are complete."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from minimind.utils.errors import UserError
from minimind.utils.files import write_json

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cached_folder(parent: Path, cache_key: dict[str, Any]) -> Path:
    return parent / hashlib.sha256(json.dumps(cache_key, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def build_folder(parent: Path, cache_key: dict[str, Any]) -> Iterator[Path | None]:
    """Yield a partial folder to fill, or None if the folder exists; it gets its final name when the block succeeds.

    Only one process at a time enters the block. After an interruption, the next process finds the partial folder and
    can resume; after a UserError, such as invalid input, the partial folder is deleted.

    Raises:
        UserError: the disk is full.
    """
    final = cached_folder(parent, cache_key)
    partial = parent / f".{final.name}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            if final.is_dir():
                yield None
                return
            partial.mkdir(exist_ok=True)
            for leftover in partial.rglob(".*.tmp"):
                leftover.unlink()
            try:
                yield partial
            except UserError:
                shutil.rmtree(partial)
                raise
            write_json(partial / "made_of.json", cache_key)
            partial.rename(final)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{parent} must have room for the prepared data, but writing failed: {error.strerror}. Finished chunks "
            "are kept: free some space and run the same command again, or choose another folder with paths.cache=…"
        ) from None
