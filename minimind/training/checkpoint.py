"""A checkpoint: a folder `step_00001000/` with the state, the configuration and the tokenizer.

`state.pt` holds tensors and plain types only. Lightning's own checkpoint is its base; the optimizer's state is keyed
by parameter name instead of by number, and the generators' states are added. The folder is written under another
name, renamed, and marked COMPLETE last, with the hash of its state.
"""

import hashlib
import random
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from minimind.runs.folder import COMPLETE, RunFolder
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

if TYPE_CHECKING:
    import lightning.pytorch as pl

STATE, CONFIG, TOKENIZER = "state.pt", "config.yaml", "tokenizer.json"


def save_checkpoint(trainer: "pl.Trainer", run: RunFolder) -> Path:
    """Saves the run as it stands between two optimizer steps; called by every rank, written by the first."""
    step = trainer.global_step
    final = run.checkpoints / f"step_{step:08d}"
    temporary = run.checkpoints / f".{final.name}.tmp"
    if not trainer.is_global_zero:
        trainer.save_checkpoint(temporary / STATE, weights_only=False)  # gives its share of what differs by rank
        return final
    for leftover in (temporary, final):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    trainer.save_checkpoint(temporary / STATE, weights_only=False)
    shutil.copy(run.config, temporary / CONFIG)
    shutil.copy(run.path / TOKENIZER, temporary / TOKENIZER)
    temporary.rename(final)
    write_json(final / COMPLETE, {"step": step, "sha256": file_hash(final / STATE)})
    return final


def newest_readable(run: RunFolder) -> Path | None:
    """The newest checkpoint whose state is what its marker says; the others are named in a warning.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    complete = run.complete_checkpoints()
    for folder in reversed(complete):
        if file_hash(folder / STATE) == read_json(folder / COMPLETE).get("sha256"):
            return folder
        warnings.warn(
            f"{folder} is corrupt (its state is not what {COMPLETE} says); using the one before.", stacklevel=2
        )
    if complete:
        raise UserError(
            f"One checkpoint in {run.checkpoints} must be readable, but all are corrupt; nothing was changed."
        )
    return None


def load_state(folder: Path) -> dict[str, Any]:
    """Raises: UserError, if it is not a checkpoint of ours."""
    try:
        return torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError … for what is wrong with a file
        raise UserError(f"{folder / STATE} must be a MiniMind checkpoint, but cannot be read: {error}") from None


def model_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The model's own parameters by name."""
    prefix = "model."
    return {name.removeprefix(prefix): t for name, t in state["state_dict"].items() if name.startswith(prefix)}


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Raises: UserError, if a name or a shape does not fit."""
    try:
        model.load_state_dict(model_weights(load_state(folder)))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"The checkpoint {folder} must fit the model, but: {error}") from None


def file_hash(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
