"""Files of weights: read as tensors and plain types only, and checked before a model believes them."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimind.utils.errors import DamagedFile, UserError

FLOATS = ("float32", "bfloat16", "float16", "float64")
ZIP, PROTO = b"PK\x03\x04", b"\x80"  # how what torch.save writes begins, and how any pickle does
SHOWN = 5  # names in an error, of possibly thousands


def load_tensors(path: Path, must: str = "a file of weights", *, mmap: bool = False) -> Any:
    """What `torch.save` wrote, of tensors and plain types, on the CPU; an error says what it `must` be.

    Raises:
        DamagedFile: it is something else, which is never loaded. In our own words: torch's recommend to load it anyway.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        is_zip = start == ZIP  # torch cannot map another file, and would say so in place of what is wrong
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except OSError as error:
        raise DamagedFile(f"{path} must be {must}, but cannot be read: {error.strerror}.") from None
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError, KeyError …: whatever the bytes happen to do
        raise DamagedFile(_in_our_words(path, must, start, error)) from None


def _in_our_words(path: Path, must: str, start: bytes, error: Exception) -> str:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    is_pickle = start == ZIP or start[:1] == PROTO
    if not found and not (is_pickle and (isinstance(error, UnpicklingError) or "weights_only" in text)):
        return f"{path} must be {must}, but is cut short or something else altogether; put a good copy in its place."
    return (
        f"{path} must hold tensors and nothing else, but holds {found[1] if found else 'something'} besides; it is "
        "never loaded, as that could run code. Ask whoever made it for safetensors, or for tensors alone."
    )


def check_weights(weights: Mapping[str, Tensor], where: str) -> None:
    """Whether they are what a model computes with: ordinary floating-point numbers, and finite as float32.

    Raises:
        UserError: naming those that are not.
    """
    if other := [f"{name} ({kind})" for name, t in weights.items() if (kind := _kind(t)) not in FLOATS]:
        raise UserError(f"The weights in {where} must be {', '.join(FLOATS)}, but not so are {some(other)}.")
    check_sizes(weights, where)
    if names := not_finite(weights):
        raise UserError(f"The weights in {where} must be finite as float32, but NaN or infinite are {some(names)}.")


def _kind(tensor: Tensor) -> str:
    """The dtype of ordinary numbers; what else it is of others."""
    if tensor.is_meta:
        return "without numbers"
    if tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
        return "nested, quantised or sparse"
    return str(tensor.dtype).removeprefix("torch.")


def check_sizes(weights: Mapping[str, Tensor], where: str) -> None:
    """A few bytes may call themselves a tensor of any size, by strides of zero: copying it would fill the memory."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights.values()}
    claimed, there = sum(t.numel() * t.element_size() for t in weights.values()), sum(storages.values())
    if claimed > 2 * there:  # a head tied to the embedding is there once and named twice
        raise UserError(f"The weights in {where} must be there in full, but of {claimed:,} bytes only {there:,} are.")


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of those with a value that is NaN or infinite as float32.

    NumPy, because torch would start threads of its own for the thread that writes checkpoints.
    """
    found = []
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel():
            values = tensor.detach().float().numpy()
            if not (np.isfinite(values.min()) and np.isfinite(values.max())):
                found.append(name)
    return found


def check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], must: str) -> None:
    """Raises: UserError, naming what is missing, what nobody asked for, and what has another shape."""
    shapes = [
        f"{name} {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    complaints = {
        "lack": sorted(expected.keys() - found.keys()),
        "have unexpected": sorted(found.keys() - expected.keys()),
        "have in another shape": shapes,
    }
    said = [f"{what} {some(names)}" for what, names in complaints.items() if names]
    if said:
        raise UserError(f"{must}, but {'; '.join(said)}.")


def some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
