"""What a folder that may come from others must not hold: links, through which is written elsewhere, and pipes."""

import os
from pathlib import Path

from minimind.utils.errors import UserError

WANDB = ("wandb", "wandb_sync")
# W&B makes these itself, replaces them by renaming, and never writes through them.
MADE_BY_WANDB = ("latest-run", "debug.log", "debug-internal.log", "debug-core.log")


def refuse_links(folder: Path) -> None:
    """Looks at all that is in the folder, which may be a link itself.

    Raises:
        UserError: naming the first link, or what is neither folder nor file.
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if not (name in MADE_BY_WANDB and path.relative_to(folder).parts[0] in WANDB):
                refuse_link(path)
                if not (path.is_file() or path.is_dir()):  # a pipe would keep its reader waiting for ever
                    raise UserError(f"{path} must be a file, but is none; take it out of the folder.")


def refuse_link(path: Path) -> None:
    """Raises: UserError."""
    if path.is_symlink():
        raise UserError(
            f"{path} must not be a symbolic link: what is written to it would change {path.readlink()}. Nothing was "
            "changed; remove the link, or put what it leads to in its place."
        )
