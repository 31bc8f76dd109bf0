"""Classes that a configuration names by `_target_`: callbacks and loggers, and nothing below them."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from minimind.utils.errors import ConfigError

# Where classes come from that a configuration of others may name, too.
OURS = ("minimind.training.callbacks.", "minimind.tracking.", "lightning.pytorch.callbacks.")


def comes_with_us(target: str) -> bool:
    """Whether `target` is a class of MiniMind or Lightning; modules of others are not imported to find out."""
    if not target.startswith(OURS):
        return False
    try:
        found = locate(target)
    except (ImportError, AttributeError, ValueError):
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(OURS)


def locate(target: str) -> Any:
    """What the dotted name stands for.

    Raises:
        ImportError, AttributeError, ValueError: nothing.
    """
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def factories(group: dict[str, Any], name: str, base: type, given: tuple[str, ...] = ()) -> list[Callable[..., Any]]:
    """What makes the objects of a group, each a subclass of `base` with its settings filled in.

    Nothing below a class's settings is made: a `_target_` there, which Hydra would call, is an error.

    Args:
        given: names of what the caller passes besides.

    Raises:
        ConfigError: a class that is not there, is of another kind, or does not take a setting.
    """
    made, found = [], []
    for key, node in group.items():
        try:
            made.append(_factory(node, base, given))
        except (TypeError, ImportError, AttributeError, ValueError) as error:
            said = str(error).split("\n")[0].rstrip(".")
            found.append(f"`{name}.{key}` must be a class with settings that it takes, but: {said}.")
    if found:
        raise ConfigError(found)
    return made


def _factory(node: Any, base: type, given: tuple[str, ...]) -> Callable[..., Any]:
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise TypeError("it has no `_target_`")
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if "_target_" in _keys(settings):
        raise TypeError("`_target_` stands below another, where nothing is made")
    found = locate(node["_target_"])
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise TypeError(f"{node['_target_']} is no {base.__name__}")
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
