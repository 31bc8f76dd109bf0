"""Generic handling of configuration dataclasses: type checks, finite numbers, plain types, added settings."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from types import UnionType
from typing import Any, get_args, get_origin

from minimind.utils.errors import ConfigError, suggestion

WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list"}
PLURALS = {bool: "booleans", int: "integers", float: "numbers", str: "strings"}
MAX_KEY_LENGTH = 100  # characters of an unknown key that are shown


ADDED = "added"  # key in a field's metadata: the default with which it was introduced


def added(default: Any, *, introduced: Any = MISSING) -> Any:
    """A field added in a later version, which leaves the identity of runs that do not use it unchanged.

    Args:
        introduced: the default at its introduction, if `default` has changed since. Never remove it: a stored
            configuration, or a source of a mixture, without the setting means this value.
    """
    metadata = {ADDED: default if introduced is MISSING else introduced}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def added_settings(config: type) -> dict[str, Any]:
    """Fields marked by `added` → default at their introduction; dotted names in nested dataclasses."""
    assert is_dataclass(config)
    found = {}
    for item in fields(config):
        if ADDED in item.metadata:
            found[item.name] = item.metadata[ADDED]
        elif isinstance(item.default_factory, type) and is_dataclass(item.default_factory):
            nested = added_settings(item.default_factory)
            found |= {f"{item.name}.{name}": default for name, default in nested.items()}
    return found


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """A message for each NaN and infinity in dataclasses, lists and dicts: range checks let NaN through."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"`{name}` must be a finite number, but is {value}."
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from not_finite(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from not_finite(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, inner in enumerate(value):
            yield from not_finite(inner, f"{name}[{index}]")


def to_plain(value: Any) -> Any:
    """Convert a dataclass to plain types: enums to their values, nested dataclasses to dicts."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(config: Any, values: Any, name: str = "") -> Any:
    """Build the dataclass `config` from plain values, the inverse of `to_plain`; missing ones have their defaults.

    Raises:
        ConfigError: a key is unknown, or the dataclass rejects a value.
    """
    if not isinstance(values, Mapping):
        where = f"`{name.rstrip('.')}`" if name else "it"
        raise ConfigError([f"{where} must be a mapping of settings, but is a {type(values).__name__}."])
    known = {field.name: field.type for field in fields(config)}
    if unknown := [str(key)[:MAX_KEY_LENGTH] for key in values if key not in known]:
        raise ConfigError([f"`{name}{key}` is not a setting; {suggestion(key, list(known))}" for key in unknown])
    read = {
        key: from_plain(known[key], value, f"{key}.") if is_dataclass(known[key]) else _as_float(known[key], value)
        for key, value in values.items()
    }
    return config(**read)


def _as_float(kind: Any, value: Any) -> Any:
    """Convert integers of float fields, as JSON may write 1.0 as 1; one too large for a float becomes infinite."""
    if float not in (kind, *get_args(kind)) or type(value) is not int:
        return value
    return float(value) if abs(value) < 2**1023 else math.inf


def type_problems(config: type, values: Mapping[str, Any]) -> list[str]:
    """A message for each value that does not have the type of its field; `values` need not cover all fields."""
    assert is_dataclass(config)
    found = []
    for field in fields(config):
        if field.name in values and values[field.name] is not MISSING:
            assert not isinstance(field.type, str)
            if must := _expected(field.type, values[field.name]):
                found.append(f"`{field.name}` must be {must}, but is {values[field.name]!r}.")
    return found


def _expected(kind: Any, value: Any) -> str | None:
    """What the value must be, if it is not."""
    if isinstance(kind, UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        fits = isinstance(value, Sequence) and not isinstance(value, str)
        fits = fits and not any(_expected(inner, item) for item in value)
        return None if fits else f"a list of {PLURALS[inner]}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return None  # parsed and checked by the configuration itself
    if kind is bool or isinstance(value, bool):
        return None if kind is bool and isinstance(value, bool) else WORDS.get(kind, kind.__name__)
    numbers = {int: Integral, float: Real}
    return None if isinstance(value, numbers.get(kind, kind)) else WORDS.get(kind, f"a {kind.__name__}")
