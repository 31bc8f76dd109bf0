"""Creates callbacks and loggers from the classes that a configuration names by `_target_`, without nested ones."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from minimind.utils.errors import ConfigError

# Modules whose classes may be named by a configuration from an untrusted source.
TRUSTED = ("minimind.training.callbacks.", "minimind.tracking.", "lightning.pytorch.callbacks.")


def is_trusted(target: str) -> bool:
    """Whether `target` is a class of MiniMind or Lightning; no other module is imported to check this."""
    if not target.startswith(TRUSTED):
        return False
    try:
        found = locate(target)
    except (ImportError, AttributeError, ValueError):
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(TRUSTED)


def locate(target: str) -> Any:
    """Import the object with this dotted name.

    Raises:
        ImportError, AttributeError, ValueError: it does not exist.
    """
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def factories(group: dict[str, Any], name: str, base: type, given: tuple[str, ...] = ()) -> list[Callable[..., Any]]:
    """Factories of the objects of a group, each a subclass of `base` with its settings bound.

    Nested objects are not created: a `_target_` inside the settings, which Hydra would call, is an error.

    Args:
        given: names of further arguments, passed by the caller.

    Raises:
        ConfigError: a class does not exist, is not a subclass of `base`, or does not take a setting.
    """
    made, found = [], []
    for key, node in group.items():
        try:
            made.append(_factory(node, base, given))
        except (TypeError, ImportError, AttributeError, ValueError) as error:
            reason = str(error).split("\n")[0].rstrip(".")
            found.append(f"`{name}.{key}` must be a class with valid settings, but: {reason}.")
    if found:
        raise ConfigError(found)
    return made


def _factory(node: Any, base: type, given: tuple[str, ...]) -> Callable[..., Any]:
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise TypeError("it has no `_target_`")
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if "_target_" in _keys(settings):
        raise TypeError("it has a nested `_target_`, which is not supported")
    found = locate(node["_target_"])
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise TypeError(f"{node['_target_']} is not a {base.__name__}")
    inspect.signature(found).bind(**settings, **dict.fromkeys(given))
    return partial(found, **settings)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)
