"""Classes of a user's own modules, which settings name as `module.Class` and which are imported only when allowed.

Settings travel in run folders and checkpoints, and a folder must not bring code: whoever uses one with such a class
says `--allow MODULE` (or sets MINIMIND_ALLOW, which child processes inherit).
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from minimind.utils.errors import ConfigError

OPTION = "--allow"
VARIABLE = "MINIMIND_ALLOW"  # names of modules, separated by commas


def allow(*modules: str) -> None:
    """Lets settings name classes of these modules and of what is below them, in this process and its children."""
    names = [name.strip() for one in modules for name in one.split(",") if name.strip()]
    if wrong := [name for name in names if not all(part.isidentifier() for part in name.split("."))]:
        raise ConfigError([f"{OPTION} must name a module, as in {OPTION} my_parts, but is {wrong[0]}."])
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*allowed(), *names]))


def allowed() -> tuple[str, ...]:
    return tuple(name for name in os.environ.get(VARIABLE, "").split(",") if name)


def take_option(arguments: Sequence[str]) -> list[str]:
    """Acts on each `--allow MODULE`, and returns the other arguments."""
    remaining, modules, waiting = [], [], False
    for argument in arguments:
        if waiting or argument.startswith(f"{OPTION}="):
            modules.append(argument.removeprefix(f"{OPTION}="))
            waiting = False
        elif argument == OPTION:
            waiting = True
        else:
            remaining.append(argument)
    if waiting:
        raise ConfigError([f"{OPTION} must be followed by the name of a module."])
    allow(*modules)
    return remaining


def import_allowed(module: str) -> ModuleType:
    """Imports an allowed module from Python's path or, if it is not there, from the current directory.

    Raises:
        ConfigError: the module cannot be imported.
    """
    if not any(isinstance(finder, _CurrentDirectory) for finder in sys.meta_path):
        sys.meta_path.append(_CurrentDirectory())
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(
            [f"{OPTION} {module}: the module cannot be imported: {type(error).__name__}: {error}."]
        ) from error


def load_class(name: str, setting: str) -> Any:
    """The class that `module.Class` names.

    Raises:
        ConfigError: its module is not allowed or cannot be imported, or has no such class.
    """
    module, _, attribute = name.rpartition(".")
    if not any(f"{module}.".startswith(f"{one}.") for one in allowed()):
        raise ConfigError([f"`{setting}` is {name}, a class that does not come with MiniMind; {how_to_allow(module)}."])
    found = getattr(import_allowed(module), attribute, None)
    if not isinstance(found, type):
        raise ConfigError([f"`{setting}` must name a class, but {module} has no class {attribute}."])
    return found


def how_to_allow(module: str) -> str:
    return f"if you trust the module, add {OPTION} {module} (in Python: minimind.allow({module!r}))"


class _CurrentDirectory(MetaPathFinder):
    """Finds allowed modules, and no others, in the current directory, after Python has looked everywhere else."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if path is None and any(fullname == one.partition(".")[0] for one in allowed()):
            return PathFinder.find_spec(fullname, [str(Path.cwd())])
        return None
