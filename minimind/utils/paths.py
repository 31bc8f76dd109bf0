"""Where things are: the configuration, the root of runs and caches, and what a user names on the command line."""

import os
from pathlib import Path

from minimind.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent


def conf_dir() -> Path:
    """The Hydra configuration: the repository's `conf/`, or the copy inside an installed wheel."""
    for folder in (REPOSITORY / "conf", PACKAGE / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"No conf/train.yaml beside or inside {PACKAGE}; install the package again.")


def default_root() -> Path:
    """`$MINIMIND_ROOT`, else the folder of train.py, else (from a wheel) the current directory."""
    if root := os.environ.get("MINIMIND_ROOT"):
        return Path(root).expanduser().resolve()
    return REPOSITORY if (REPOSITORY / "train.py").is_file() else Path.cwd()


def find_existing(name: str, what: str) -> Path:
    """The path `name` as seen from the current directory, then from the root.

    Raises:
        UserError: it is in neither.
    """
    path = Path(name).expanduser()
    for candidate in (Path.cwd() / path, default_root() / path):
        if candidate.exists():
            return candidate.resolve()
    raise UserError(f"{what} must exist, but {name} is neither in {Path.cwd()} nor in {default_root()}.")
