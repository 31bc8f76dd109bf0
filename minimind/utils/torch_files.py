"""Weight files: loaded as tensors and plain types only, and checked before use."""

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
ZIP, PROTO = b"PK\x03\x04", b"\x80"  # first bytes of a torch.save file, and of any pickle
MAX_NAMES = 5  # in an error message


def load_tensors(path: Path, must: str = "a file of weights", *, mmap: bool = False) -> Any:
    """Load a `torch.save` file of tensors and plain types to the CPU.

    Args:
        must: what the file must be, for the error message.

    Raises:
        DamagedFile: it holds anything else. The message is our own: torch's recommends loading the file anyway.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        is_zip = start == ZIP  # mmap=True would hide the actual error of other files
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except OSError as error:
        raise DamagedFile(f"{path} must be {must}, but cannot be read: {error.strerror}.") from None
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError, KeyError …, depending on the bytes
        raise DamagedFile(_load_error(path, must, start, error)) from None


def _load_error(path: Path, must: str, start: bytes, error: Exception) -> str:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    is_pickle = start == ZIP or start[:1] == PROTO
    if not found and not (is_pickle and (isinstance(error, UnpicklingError) or "weights_only" in text)):
        return f"{path} must be {must}, but is truncated or of another kind; replace it with a good copy."
    return (
        f"{path} must hold only tensors, but also holds {found[1] if found else 'other objects'}; it is never loaded, "
        "as that could run code. Ask its author for safetensors, or for a file of tensors only."
    )


def check_weights(weights: Mapping[str, Tensor], where: str) -> None:
    """Check that all weights are dense floating-point tensors, stored in full, and finite as float32.

    Raises:
        UserError: naming those that are not.
    """
    if other := [f"{name} ({kind})" for name, t in weights.items() if (kind := _kind(t)) not in FLOATS]:
        raise UserError(f"The weights in {where} must be {', '.join(FLOATS)}, but some are not: {summary(other)}.")
    check_sizes(weights, where)
    if names := not_finite(weights):
        raise UserError(f"The weights in {where} must be finite as float32, but are not: {summary(names)}.")


def _kind(tensor: Tensor) -> str:
    """The dtype of a dense tensor, else what is special about it."""
    if tensor.is_meta:
        return "without data"
    if tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
        return "nested, quantised or sparse"
    return str(tensor.dtype).removeprefix("torch.")


def check_sizes(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors larger than their storage: with strides of zero, copying a few bytes could fill the memory."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights.values()}
    claimed, stored = sum(t.numel() * t.element_size() for t in weights.values()), sum(storages.values())
    if claimed > 2 * stored:  # a head tied to the embedding is stored once and counted twice
        raise UserError(f"The weights in {where} must be stored in full, but only {stored:,} of {claimed:,} bytes are.")


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights with a value that is NaN or infinite as float32.

    Uses NumPy, because torch would start another thread pool for the thread that writes checkpoints.
    """
    found = []
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel():
            values = tensor.detach().float().numpy()
            if not (np.isfinite(values.min()) and np.isfinite(values.max())):
                found.append(name)
    return found


def check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], must: str) -> None:
    """Raises: UserError, listing missing and unexpected names and wrong shapes."""
    shapes = [
        f"{name} {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {
        "lack": sorted(expected.keys() - found.keys()),
        "have unexpected": sorted(found.keys() - expected.keys()),
        "have in the wrong shape": shapes,
    }
    if messages := [f"{what} {summary(names)}" for what, names in problems.items() if names]:
        raise UserError(f"{must}, but {'; '.join(messages)}.")


def summary(names: Iterable[str]) -> str:
    """The first few names and the number of the others."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
