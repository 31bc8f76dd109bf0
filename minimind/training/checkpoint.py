"""A checkpoint: a folder `step_00001000/` with the state, the configuration, the model's part of it, and the tokenizer.

`state.pt` holds tensors and plain types only. Lightning's own checkpoint is its base; the optimizer's state is keyed
by parameter name instead of by number, and the generators' states of each rank are added. The folder is written under
another name, synced, renamed, and marked COMPLETE last, with the hashes of its files (`runs/checkpoints`).
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


class NotFinite(Exception):
    """A weight is NaN or infinite: such a state must not take the place of a good one."""


def write_checkpoint(run: RunFolder, step: int, state: dict[str, Any], record: dict[str, bytes]) -> Path:
    """Writes the folder of this step; one that is there already, whole or not, is replaced.

    Args:
        record: file → content of what describes the state: configuration, model and tokenizer.

    Raises:
        OSError: the disk is full or gone; nothing is left behind.
        FolderGone, NotFinite: nothing was written.
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
        for name, content in record.items():
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
    """Raises: NotFinite."""
    for name in not_finite(weights):
        raise NotFinite(f"{name.removeprefix('model.')} is not finite")


class _Hashing:
    """A file that is hashed while it is written, and remembers the system's error that torch would hide."""

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
            while written < len(data):  # an unbuffered file may take less than all
                written += self.file.write(data[written:])
        except OSError as error:
            self.error = error
            raise
        return written

    def flush(self) -> None:
        """Nothing is held back."""


def _write_state(path: Path, state: dict[str, Any]) -> str:
    """Returns the sha256 of the file."""
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
    """torch would compute a CRC32 of every tensor besides, for as long as the hash of the whole takes."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def load_state(folder: Path, *, mmap: bool = True) -> dict[str, Any]:
    """Raises: UserError, if it is damaged, or not a checkpoint of ours."""
    state = load_tensors(verified(folder) / STATE, "a MiniMind checkpoint", mmap=mmap)
    weights = state.get("state_dict") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{folder / STATE} must be a MiniMind checkpoint, but has no `state_dict` of tensors.")
    upgrade(state)
    return state


def model_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The model's own parameters by name."""
    prefix = "model."
    return {name.removeprefix(prefix): t for name, t in state["state_dict"].items() if name.startswith(prefix)}


def load_model(folder: Path, device: torch.device) -> tuple[MiniMind, BPE]:
    """The model in evaluation mode, float32, and its tokenizer; neither Lightning nor the configuration is needed.

    Raises:
        UserError: something is missing, damaged or does not fit.
    """
    cfg = stored_model(verified(folder))
    with torch.device("meta"):
        model = MiniMind(cfg)
    weights = fitting_weights(model, folder)  # before memory is taken for what the configuration merely claims
    model.to_empty(device=device)
    model.load_state_dict(weights)
    return model.eval(), BPE.load(folder / TOKENIZER)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Raises: UserError, if a name, a shape or a number is not what a model has."""
    model.load_state_dict(fitting_weights(model, folder))


def fitting_weights(model: torch.nn.Module, folder: Path) -> dict[str, Tensor]:
    """Those of the checkpoint, which the model (on whatever device) can load.

    Raises:
        UserError: a name, a shape or a number is not what the model has.
    """
    weights = model_weights(load_state(folder))
    check_names(weights, model.state_dict(), f"The checkpoint {folder} must fit the model")
    check_weights(weights, str(folder))
    return weights


def refuse_weights_only(folder: Path) -> None:
    """Raises: UserError, if nothing but weights is there to go on from, as in a model that was imported."""
    if "optimizer_states" not in load_state(folder):
        raise UserError(
            f"{folder} must hold the state of a training to go on from it, but has weights only; start a run from "
            f"them with init_from={folder.parent.parent}."
        )


def optimizer_by_name(checkpoint: dict[str, Any]) -> None:
    """Lightning's numbered optimizer state → keyed by parameter name, in place."""
    for state in checkpoint["optimizer_states"]:
        names = [name for group in state["param_groups"] for name in group.pop("param_names")]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        by_number = dict(zip(numbers, names, strict=True))
        state["state"] = {by_number[number]: value for number, value in state["state"].items()}
        for group in state["param_groups"]:
            group["params"] = [by_number[number] for number in group["params"]]


def optimizer_by_number(checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """The way back, for the groups of `optimizer`; raises KeyError for a parameter the checkpoint has not."""
    (state,) = checkpoint["optimizer_states"]
    target = optimizer.state_dict()
    saved_groups = {name: group for group in state["param_groups"] for name in group["params"]}
    by_number, groups = {}, []
    for group in target["param_groups"]:
        names = group["param_names"]
        by_number.update({n: state["state"][name] for n, name in zip(group["params"], names, strict=True)})
        groups.append({**saved_groups[names[0]], "params": group["params"], "param_names": names})
    checkpoint["optimizer_states"] = [{"state": by_number, "param_groups": groups}]


def random_state() -> dict[str, Any]:
    """Every global generator of this process, as tensors and plain types."""
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
