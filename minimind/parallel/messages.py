"""Messages between processes: plain values and tensors as JSON, so that a message never contains code."""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIMIT = 2**24  # bytes per message; real ones take a few kilobytes
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )
}  # fmt: skip


def encode(value: Any) -> bytes:
    """Encode a value for `decode`; tensors are decoded to the CPU.

    Raises:
        TypeError: the value contains anything but None, numbers, strings, paths, tensors, lists, tuples, and
            dictionaries with string keys.
        ValueError: the message is too long.
    """
    message = json.dumps(_to_json(value)).encode()
    _check_length(message)
    return message


def decode(message: bytes) -> Any:
    """Raises: ValueError, if this is not a message."""
    _check_length(message)
    try:
        return _from_json(json.loads(message))
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:  # including RecursionError
        raise ValueError(f"Another process sent an invalid message ({type(error).__name__}: {error}).") from None


def _check_length(message: bytes) -> None:
    if len(message) > LIMIT:
        raise ValueError(f"A message between processes must have at most {LIMIT:,} bytes, but has {len(message):,}.")


def _to_json(value: Any) -> Any:
    """Types that JSON lacks, and dictionaries, become an object with a single entry named after the type."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_to_json(item) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {key: _to_json(item) for key, item in value.items()}}
        case Path():
            return {"path": str(value)}
        case Tensor() if value.dtype in DTYPES.values():
            data = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
            dtype = str(value.dtype).removeprefix("torch.")
            return {"tensor": [dtype, list(value.shape), base64.b64encode(data).decode()]}
    if type(value) is tuple:  # not a namedtuple, which would lose its names
        return {"tuple": [_to_json(item) for item in value]}
    raise TypeError(f"A message between processes must consist of plain values and tensors, but has a {type(value)!r}.")


def _from_json(value: Any) -> Any:
    match value:
        case list():
            return [_from_json(item) for item in value]
        case {"dict": dict() as entries, **others} if not others:
            return {key: _from_json(item) for key, item in entries.items()}
        case {"path": str() as path, **others} if not others:
            return Path(path)
        case {"tuple": list() as items, **others} if not others:
            return tuple(_from_json(item) for item in items)
        case {"tensor": [str() as dtype, list() as shape, str() as data], **others} if not others:
            return _tensor(DTYPES[dtype], shape, base64.b64decode(data, validate=True))
        case dict():
            raise ValueError(f"unknown type of value: {', '.join(value)}")
    return value


def _tensor(dtype: torch.dtype, shape: list[int], data: bytes) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)
