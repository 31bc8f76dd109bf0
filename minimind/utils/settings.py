"""What holds for every setting, whatever it means: its kind, that a number is a number, and when it was added."""

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

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
LONGEST_NAME = 100  # characters of an unknown key that are worth showing


ADDED = "added"  # in a field's metadata: the default it was introduced with


def added(default: Any, *, introduced: Any = MISSING) -> Any:
    """A field that its dataclass did not always have, and that renames no run which does not use it.

    Args:
        introduced: the default at its introduction, once `default` is another. It stays for ever: a stored
            configuration without the setting means this value, and so does a source of a mixture.
    """
    metadata = {ADDED: default if introduced is MISSING else introduced}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def added_settings(config: type) -> dict[str, Any]:
    """Name → default at its introduction, of the fields that are marked by `added`; dotted in nested dataclasses."""
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
    """Complains of every NaN and infinity in dataclasses, lists and dicts: comparisons let NaN through."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"`{name}` must be a finite number, but is {value}."
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from not_finite(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from not_finite(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for place, inner in enumerate(value):
            yield from not_finite(inner, f"{name}[{place}]")


def to_plain(value: Any) -> Any:
    """A dataclass as JSON has it: enums by value, a dataclass within it as an object."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(config: Any, values: Any, name: str = "") -> Any:
    """The dataclass `config` with these values, the inverse of `to_plain`; what is left out has its default.

    Raises:
        ConfigError: a key is unknown, or the dataclass itself refuses a value.
    """
    if not isinstance(values, Mapping):
        where = f"`{name.rstrip('.')}`" if name else "it"
        raise ConfigError([f"{where} must be settings by name, but is a {type(values).__name__}."])
    known = {field.name: field.type for field in fields(config)}
    if unknown := [str(key)[:LONGEST_NAME] for key in values if key not in known]:
        raise ConfigError([f"`{name}{key}` is no setting; {suggestion(key, list(known))}" for key in unknown])
    read = {
        key: from_plain(known[key], value, f"{key}.") if is_dataclass(known[key]) else _as_float(known[key], value)
        for key, value in values.items()
    }
    return config(**read)


def _as_float(kind: Any, value: Any) -> Any:
    """JSON may write 1.0 as 1; a whole number that no float can hold stays, and is refused as infinite."""
    if float not in (kind, *get_args(kind)) or type(value) is not int:
        return value
    return float(value) if abs(value) < 2**1023 else math.inf


def of_another_kind(config: type, values: Mapping[str, Any]) -> list[str]:
    """Complaints about values that are not what the dataclass says of its fields; it may hold some of them."""
    assert is_dataclass(config)
    found = []
    for field in fields(config):
        if field.name in values and values[field.name] is not MISSING:
            assert not isinstance(field.type, str)
            if must := _wanted(field.type, values[field.name]):
                found.append(f"`{field.name}` must be {must}, but is {values[field.name]!r}.")
    return found


def _wanted(kind: Any, value: Any) -> str | None:
    """What the value should be and is not."""
    if isinstance(kind, UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        fits = isinstance(value, Sequence) and not isinstance(value, str)
        fits = fits and not any(_wanted(inner, item) for item in value)
        return None if fits else f"a list, each item {WORDS[inner]}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return None  # words are read, and complained of, by the configuration itself
    if kind is bool or isinstance(value, bool):
        return None if kind is bool and isinstance(value, bool) else WORDS.get(kind, kind.__name__)
    numbers = {int: Integral, float: Real}
    return None if isinstance(value, numbers.get(kind, kind)) else WORDS.get(kind, f"a {kind.__name__}")
