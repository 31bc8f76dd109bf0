"""Checkpoint folders: verifying them, finding the one to use, and where a run resumes. Torch-free.

A checkpoint is `step_00001000/` with the state, the configuration, the model's part of it as JSON, the tokenizer, and
`COMPLETE`, written last, with the size and hash of each file. All commands get checkpoints from here, so none reads a
damaged one.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from minimind.runs.folder import CHECKPOINT_NAME, COMPLETE, RunFolder, step_of
from minimind.runs.identity import HASHED, is_hashed, leaves, may_change
from minimind.runs.stored_config import read_config
from minimind.utils.errors import UserError
from minimind.utils.files import file_hash, read_json, write_json
from minimind.utils.terminal import say

STATE, CONFIG, TOKENIZER, MODEL = "state.pt", "config.yaml", "tokenizer.json", "model.json"
FILES = (STATE, CONFIG, TOKENIZER)  # plus MODEL, except in checkpoints of versions that did not write it


def mark_complete(folder: Path, step: int, state_sha256: str | None = None) -> None:
    """Write the `COMPLETE` marker.

    Args:
        state_sha256: hash of the state file, if already known.

    Raises:
        OSError: the disk is full.
    """
    known = {} if state_sha256 is None else {STATE: state_sha256}
    hashes = {name: known.get(name) or file_hash(folder / name) for name in (*FILES, *_model_file(folder))}
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256} for name, sha256 in hashes.items()}
    write_json(folder / COMPLETE, {"step": step, "files": files})


def checkpoint_problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None: every file matches its hash in `COMPLETE`."""
    if not (folder / COMPLETE).is_file():
        return f"it has no {COMPLETE}: saving it was interrupted"
    try:
        step, files = _marker(read_json(folder / COMPLETE))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {COMPLETE} is damaged"
    if CHECKPOINT_NAME.fullmatch(folder.name) and step != step_of(folder):
        return f"its {COMPLETE} is of step {step}"
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is missing"
        if file_hash(path) != sha256:
            return f"corrupt: its {name} does not match {COMPLETE}"
    if _model_file(folder) - files.keys():  # the first version, whose markers cover only the state, wrote none
        return f"its {MODEL} is not in {COMPLETE}"
    return None


def _model_file(folder: Path) -> set[str]:
    return {MODEL} if (folder / MODEL).is_file() else set()


def _marker(content: Any) -> tuple[int, dict[str, str]]:
    """The step, and file → hash. Markers of the first version have only the state's hash."""
    if "files" not in content:
        return content["step"], {STATE: content["sha256"]}
    files = content["files"]
    return content["step"], {name: files[name]["sha256"] for name in (*FILES, *({MODEL} & files.keys()))}


def verified(folder: Path) -> Path:
    """Return `folder`. Raises: UserError, if the checkpoint is damaged."""
    if problem := checkpoint_problem(folder):
        others = [path.name for path in RunFolder(folder.parent.parent).complete_checkpoints() if path != folder]
        other = f"use another ({', '.join(others)})" if others else "put a good copy back"
        raise UserError(f"{folder} cannot be used ({problem}); {other}.")
    _warn_of_unprotected(folder)
    return folder


@cache  # warn once
def _warn_of_unprotected(folder: Path) -> None:
    """Compare files that a checkpoint of the first version has without a hash with those of the run folder."""
    run = RunFolder(folder.parent.parent)
    _, files = _marker(read_json(folder / COMPLETE))
    if CONFIG in files or folder.parent != run.checkpoints:
        return
    if different := ", ".join(_differences(folder, run)):
        say(
            f"Warning: {folder} and {run.path} must agree, but differ in {different}: one of them was edited or "
            f"damaged. Using the checkpoint's, for which the first version's {COMPLETE} has no hash.",
            file=sys.stderr,
        )


def _differences(folder: Path, run: RunFolder) -> Iterator[str]:
    with suppress(UserError):  # ignore an unreadable one here; the checkpoint's own is refused later
        ours, theirs = leaves(read_config(folder / CONFIG)), leaves(read_config(run.config))
        for key in ours.keys() & theirs.keys():  # a later version may have added settings to the run's
            if key.split(".")[0] in HASHED and is_hashed(key) and not may_change(key) and ours[key] != theirs[key]:
                yield f"{key} ({ours[key]} and {theirs[key]})"
    tokenizers = [parent / TOKENIZER for parent in (folder, run.path) if (parent / TOKENIZER).is_file()]
    if len({file_hash(path) for path in tokenizers}) > 1:
        yield TOKENIZER


def checkpoint_of(path: Path) -> Path:
    """The verified checkpoint of a run folder (the best, else the newest), or the checkpoint folder itself.

    Raises:
        UserError: it is neither, or is damaged.
    """
    if (path / COMPLETE).is_file():
        return verified(path)
    run = RunFolder(path)
    complete = run.complete_checkpoints()
    if not complete:
        raise UserError(
            f"{path} must be a run folder or a checkpoint, but is neither (it has no checkpoint with a {COMPLETE} "
            "marker); use runs/<run> or runs/<run>/checkpoints/<step>."
        )
    best = run.status.get("best_checkpoint")
    if best is not None and best not in [folder.name for folder in complete]:
        say(f"Warning: {best}, the best of {path}, is missing; using {complete[-1].name}.", file=sys.stderr)
    return verified(next((folder for folder in complete if folder.name == best), complete[-1]))


def resume_point(run: RunFolder, *, warn: bool = False) -> Path | None:
    """The newest usable checkpoint; None: the run has not saved one yet.

    Args:
        warn: print a warning for each damaged checkpoint.

    Raises:
        UserError: all checkpoints are damaged or missing, or status.json is; nothing is changed.
    """
    folders = run.all_checkpoints()
    if not run.status and (folders or run.metrics.is_file() or run.summary.is_file()):
        raise UserError(
            f"{run.path} must have a status.json that describes the data and settings of its checkpoints and metrics, "
            "but it is missing or empty; put it back, or start over with run.fresh=true (this folder is kept)."
        )
    for folder in reversed(folders):
        problem = checkpoint_problem(folder)
        if problem is None:
            return folder
        if warn:
            say(f"Warning: {folder} cannot be used ({problem}); trying the previous one.", file=sys.stderr)
    step = run.status.get("step", 0)
    if step or any((folder / COMPLETE).is_file() for folder in folders):
        reason = "all are corrupt" if folders else "there is none"
        raise UserError(
            f"{run.checkpoints} must have a usable checkpoint, as the run has reached step {step}, but {reason}; "
            "nothing was changed. Put a good copy back, or start over with run.fresh=true (this folder is kept)."
        )
    return None
