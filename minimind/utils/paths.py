"""Paths of the package, the Hydra configuration, and the root folder of runs and caches."""

import os
from pathlib import Path

from minimind.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent


def conf_dir() -> Path:
    """Folder of the Hydra configuration: the repository's `conf/`, or the copy in an installed wheel."""
    for folder in (REPOSITORY / "conf", PACKAGE / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"conf/train.yaml must be beside or inside {PACKAGE}, but is not; reinstall the package.")


def default_root() -> Path:
    """`$MINIMIND_ROOT`, else the folder of train.py, else (in a wheel) the current directory."""
    if root := os.environ.get("MINIMIND_ROOT"):
        return Path(root).expanduser().resolve()
    return REPOSITORY if (REPOSITORY / "train.py").is_file() else Path.cwd()


def find_existing(name: str, what: str) -> Path:
    """Resolve the path `name` relative to the current directory, then to the root.

    Raises:
        UserError: it exists in neither.
    """
    path = Path(name).expanduser()
    for candidate in (Path.cwd() / path, default_root() / path):
        if candidate.exists():
            return candidate.resolve()
    raise UserError(f"{what} must exist, but {name} is neither in {Path.cwd()} nor in {default_root()}.")
