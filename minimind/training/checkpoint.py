"""Writes and loads checkpoints: folders `step_00001000/` with the state, the configurations and the tokenizer.

`state.pt` holds only tensors and plain types. It is Lightning's checkpoint with the optimizer state keyed by parameter
name instead of by index, plus the random generator states of each rank. The folder is written under a temporary name,
synced, renamed, and finally marked COMPLETE with the hashes of its files (`runs/checkpoints`).
"""

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from minimind.model.transformer import MiniMind
from minimind.runs.checkpoints import STATE, TOKENIZER, mark_complete, verified
from minimind.runs.folder import COMPLETE, RunFolder, checkpoint_name
from minimind.tokenizer.bpe import BPE
from minimind.training.model_file import stored_model
from minimind.training.upgrade import upgrade
from minimind.utils.errors import UserError
from minimind.utils.files import sync_folder
from minimind.utils.torch_files import check_names, check_weights, load_tensors, not_finite


class NonFiniteWeights(Exception):
    """A weight is NaN or infinite: such a state must not replace a good one."""


def write_checkpoint(run: RunFolder, step: int, state: dict[str, Any], metadata: dict[str, bytes]) -> Path:
    """Write the checkpoint folder of this step; an existing one, complete or not, is replaced.

    Args:
        metadata: file name → content, for the configuration, the model and the tokenizer.

    Raises:
        OSError: the disk is full or gone; nothing is left behind.
        FolderGone, NonFiniteWeights: nothing was written.
    """
    check_finite(state["state_dict"])
    run.require_in_place()
    final = run.checkpoints / checkpoint_name(step)
    temporary = run.checkpoints / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        run.checkpoints.mkdir(exist_ok=True)
        temporary.mkdir()
        sha256 = _write_state(temporary / STATE, state)
        for name, content in metadata.items():
            (temporary / name).write_bytes(content)
        sync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.exists():
        (final / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(run.checkpoints)
    mark_complete(final, step, sha256)
    sync_folder(final)
    return final


def check_finite(weights: dict[str, Tensor]) -> None:
    """Raises: NonFiniteWeights, naming the first weight with NaN or infinity."""
    for name in not_finite(weights):
        raise NonFiniteWeights(f"{name.removeprefix('model.')} is not finite")


class _Hashing:
    """A file that is hashed while it is written; it keeps the operating system's error, which torch hides."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        if self.error is not None:
            raise self.error
        self.sha256.update(data)
        written = 0
        try:
            while written < len(data):  # an unbuffered write may be partial
                written += self.file.write(data[written:])
        except OSError as error:
            self.error = error
            raise
        return written

    def flush(self) -> None:
        """Does nothing: the file is unbuffered."""


def _write_state(path: Path, state: dict[str, Any]) -> str:
    """Write `state` and return the file's sha256."""
    with path.open("wb", buffering=0) as file:
        hashing = _Hashing(file)
        try:
            with _without_crc():
                torch.save(state, cast(IO[bytes], hashing))
        except Exception:
            if hashing.error is not None:
                raise hashing.error from None
            raise
        os.fsync(file.fileno())
    return hashing.sha256.hexdigest()


@contextmanager
def _without_crc() -> Iterator[None]:
    """Keep torch from also computing a CRC32 of every tensor, which takes as long as the sha256."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def load_state(folder: Path, *, mmap: bool = True) -> dict[str, Any]:
    """Raises: UserError, if the checkpoint is damaged or not MiniMind's."""
    state = load_tensors(verified(folder) / STATE, "a MiniMind checkpoint", mmap=mmap)
    weights = state.get("state_dict") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{folder / STATE} must be a MiniMind checkpoint, but has no `state_dict` of tensors.")
    upgrade(state)
    return state


def model_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The model's weights by parameter name."""
    prefix = "model."
    return {name.removeprefix(prefix): t for name, t in state["state_dict"].items() if name.startswith(prefix)}


def load_model(folder: Path, device: torch.device) -> tuple[MiniMind, BPE]:
    """Load the model, float32 and in evaluation mode, and its tokenizer; needs neither Lightning nor the configuration.

    Raises:
        UserError: a file is missing or damaged, or does not fit the model.
    """
    cfg = stored_model(verified(folder))
    with torch.device("meta"):
        model = MiniMind(cfg)
    weights = fitting_weights(model, folder)  # before allocating memory for what the configuration claims
    model.to_empty(device=device)
    model.load_state_dict(weights)
    return model.eval(), BPE.load(folder / TOKENIZER)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Raises: UserError, if the weights do not fit the model or are not finite."""
    model.load_state_dict(fitting_weights(model, folder))


def fitting_weights(model: torch.nn.Module, folder: Path) -> dict[str, Tensor]:
    """The checkpoint's weights, checked against the model, which may be on any device.

    Raises:
        UserError: a name or shape does not match, or a weight is not finite.
    """
    weights = model_weights(load_state(folder))
    check_names(weights, model.state_dict(), f"The checkpoint {folder} must fit the model")
    check_weights(weights, str(folder))
    return weights


def require_training_state(folder: Path) -> None:
    """Raises: UserError, if the checkpoint has only weights, as that of an imported model."""
    if "optimizer_states" not in load_state(folder):
        raise UserError(
            f"{folder} must have a training state to be resumed, but has weights only; start a run from them with "
            f"init_from={folder.parent.parent}."
        )


def key_optimizer_by_name(checkpoint: dict[str, Any]) -> None:
    """Rekey Lightning's optimizer state from parameter indices to names, in place."""
    for state in checkpoint["optimizer_states"]:
        names = [name for group in state["param_groups"] for name in group.pop("param_names")]
        indices = [index for group in state["param_groups"] for index in group["params"]]
        name_of = dict(zip(indices, names, strict=True))
        state["state"] = {name_of[index]: value for index, value in state["state"].items()}
        for group in state["param_groups"]:
            group["params"] = [name_of[index] for index in group["params"]]


def key_optimizer_by_index(checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Undo `key_optimizer_by_name` for the parameter groups of `optimizer`, in place.

    Raises:
        KeyError: the checkpoint lacks a parameter.
    """
    (state,) = checkpoint["optimizer_states"]
    target = optimizer.state_dict()
    saved_groups = {name: group for group in state["param_groups"] for name in group["params"]}
    by_index, groups = {}, []
    for group in target["param_groups"]:
        names = group["param_names"]
        by_index.update({index: state["state"][name] for index, name in zip(group["params"], names, strict=True)})
        groups.append({**saved_groups[names[0]], "params": group["params"], "param_names": names})
    checkpoint["optimizer_states"] = [{"state": by_index, "param_groups": groups}]


def random_state() -> dict[str, Any]:
    """The states of this process's global random generators, as tensors and plain types."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
