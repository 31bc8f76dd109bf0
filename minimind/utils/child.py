"""Child processes that run a module of ours or of a library."""

import os
import sys

from minimind.utils.paths import PACKAGE


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`.

    -P, because Python would first look in the current directory, and that may be somebody else's folder: a `random.py`
    in it would run in place of the library's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def search_path() -> str:
    """PYTHONPATH for a child that is to import this very package, from a clone that is not installed, too."""
    before = os.environ.get("PYTHONPATH", "")
    ours = str(PACKAGE.parent)
    return before if ours in before.split(os.pathsep) else os.pathsep.join([ours, *([before] if before else [])])
