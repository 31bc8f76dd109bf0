"""Folders made once, named by what they are made of, and never seen half made."""

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

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def folder_of(parent: Path, made_of: dict[str, Any]) -> Path:
    return parent / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def filled_folder(parent: Path, made_of: dict[str, Any]) -> Iterator[Path | None]:
    """Yields the folder to fill, or None where it is there; it gets its name when the block ends well.

    One process at a time. After an interruption the next one finds what was written so far and can go on; after a
    mistake in the input nothing is left.

    Raises:
        UserError: there is no room on the disk.
    """
    final = folder_of(parent, made_of)
    partial = parent / f".{final.name}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            if final.is_dir():
                yield None
                return
            partial.mkdir(exist_ok=True)
            for torn in partial.rglob(".*.tmp"):
                torn.unlink()
            try:
                yield partial
            except UserError:
                shutil.rmtree(partial)
                raise
            write_json(partial / "made_of.json", made_of)
            partial.rename(final)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"{parent} must have room for the prepared data, but the disk says: {error.strerror}. What is finished is "
            "kept: free some space and run the same command again, or choose another place with paths.cache=…"
        ) from None
