"""Refusal of symbolic links and special files in untrusted folders: writing through a link would change its target."""

import os
from pathlib import Path

from minimind.utils.errors import UserError

WANDB = ("wandb", "wandb_sync")
# W&B creates these links, replaces them by renaming, and never writes through them.
MADE_BY_WANDB = ("latest-run", "debug.log", "debug-internal.log", "debug-core.log")


def refuse_links(folder: Path) -> None:
    """Check everything in the folder, which may itself be a link.

    Raises:
        UserError: naming the first link or special file.
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if not (name in MADE_BY_WANDB and path.relative_to(folder).parts[0] in WANDB):
                refuse_link(path)
                if not (path.is_file() or path.is_dir()):  # reading a pipe would block forever
                    raise UserError(f"{path} must be a regular file or a folder, but is neither; remove it.")


def refuse_link(path: Path) -> None:
    """Raises: UserError."""
    if path.is_symlink():
        raise UserError(
            f"{path} must not be a symbolic link: writing to it would change {path.readlink()}. Nothing was changed; "
            "remove the link, or replace it with its target."
        )
