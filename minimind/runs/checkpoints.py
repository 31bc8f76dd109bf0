"""Checkpoint folders as files: whether one is whole, which one a name means, and where a run goes on. No torch.

A checkpoint is `step_00001000/` with the state, the configuration, the model's part of it as JSON, and the tokenizer;
and `COMPLETE`, written last, with the size and hash of each of them. Every verb gets its checkpoint from here, so none
reads one that was damaged.
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
FILES = (STATE, CONFIG, TOKENIZER)  # MODEL besides, but for checkpoints of versions that did not write it


def mark_complete(folder: Path, step: int, state_sha256: str | None = None) -> None:
    """Args:
        state_sha256: the hash of the state, where it is known from the writing.

    Raises:
        OSError: the disk is full.
    """
    known = {} if state_sha256 is None else {STATE: state_sha256}
    hashes = {name: known.get(name) or file_hash(folder / name) for name in (*FILES, *_model(folder))}
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256} for name, sha256 in hashes.items()}
    write_json(folder / COMPLETE, {"step": step, "files": files})


def what_is_wrong(folder: Path) -> str | None:
    """In a few words why a checkpoint cannot be used; None: each of its files is what its marker says."""
    if not (folder / COMPLETE).is_file():
        return f"no {COMPLETE} in it: its saving was cut off"
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
            return f"corrupt: its {name} is not what {COMPLETE} says"
    if _model(folder) - files.keys():  # the first version, whose markers have nothing but the state, wrote none
        return f"its {MODEL} is not in {COMPLETE}"
    return None


def _model(folder: Path) -> set[str]:
    return {MODEL} if (folder / MODEL).is_file() else set()


def _marker(content: Any) -> tuple[int, dict[str, str]]:
    """Step, and file → hash. The first version's markers have the hash of the state alone."""
    if "files" not in content:
        return content["step"], {STATE: content["sha256"]}
    files = content["files"]
    return content["step"], {name: files[name]["sha256"] for name in (*FILES, *({MODEL} & files.keys()))}


def verified(folder: Path) -> Path:
    """Raises: UserError, if a file of the checkpoint is not what was written."""
    if problem := what_is_wrong(folder):
        others = [path.name for path in RunFolder(folder.parent.parent).complete_checkpoints() if path != folder]
        other = f"name another ({', '.join(others)})" if others else "put a good copy back"
        raise UserError(f"{folder} cannot be used ({problem}); {other}.")
    _warn_of_the_unprotected(folder)
    return folder


@cache  # said once, however often a verb asks
def _warn_of_the_unprotected(folder: Path) -> None:
    """Of the first version's checkpoints only the state has a hash: the rest is held against the run folder's own."""
    run = RunFolder(folder.parent.parent)
    _, files = _marker(read_json(folder / COMPLETE))
    if CONFIG in files or folder.parent != run.checkpoints:
        return
    if different := ", ".join(_differences(folder, run)):
        say(
            f"Warning: {folder} and {run.path} must agree, but differ in {different}: one of them was edited or "
            f"damaged. The checkpoint's are used; the first version's {COMPLETE} does not protect them.",
            file=sys.stderr,
        )


def _differences(folder: Path, run: RunFolder) -> Iterator[str]:
    with suppress(UserError):  # one that cannot be read is no witness, and the checkpoint's own is refused later
        ours, theirs = leaves(read_config(folder / CONFIG)), leaves(read_config(run.config))
        for key in ours.keys() & theirs.keys():  # a later version may have added some to the run's
            if key.split(".")[0] in HASHED and is_hashed(key) and not may_change(key) and ours[key] != theirs[key]:
                yield f"{key} ({ours[key]} and {theirs[key]})"
    tokenizers = [place / TOKENIZER for place in (folder, run.path) if (place / TOKENIZER).is_file()]
    if len({file_hash(path) for path in tokenizers}) > 1:
        yield TOKENIZER


def checkpoint_of(path: Path) -> Path:
    """The checkpoint meant by a run folder (its best, else its newest) or by a checkpoint folder, verified.

    Raises:
        UserError: it is neither, or is damaged.
    """
    if (path / COMPLETE).is_file():
        return verified(path)
    run = RunFolder(path)
    complete = run.complete_checkpoints()
    if not complete:
        raise UserError(
            f"A run folder or a checkpoint must be given, but {path} is neither (no checkpoint with a "
            f"{COMPLETE} marker in it); name runs/<run> or runs/<run>/checkpoints/<step>."
        )
    best = run.status.get("best_checkpoint")
    if best is not None and best not in [folder.name for folder in complete]:
        say(f"Warning: {best}, the best of {path}, is gone; taking {complete[-1].name}.", file=sys.stderr)
    return verified(next((folder for folder in complete if folder.name == best), complete[-1]))


def resume_point(run: RunFolder, *, warn: bool = False) -> Path | None:
    """The newest usable checkpoint. None: the run has saved none yet.

    Args:
        warn: on standard error, of those that cannot be used.

    Raises:
        UserError: it has, but none can be used, or its status is lost; nothing is changed.
    """
    folders = run.all_checkpoints()
    if not run.status and (folders or run.metrics.is_file() or run.summary.is_file()):
        raise UserError(
            f"{run.path} must have a status.json, which says what data and settings its checkpoints and metrics are "
            "of, but has none, or an empty one; put it back, or start again with run.fresh=true (this folder is kept)."
        )
    for folder in reversed(folders):
        problem = what_is_wrong(folder)
        if problem is None:
            return folder
        if warn:
            say(f"Warning: {folder} cannot be used ({problem}); looking at the one before.", file=sys.stderr)
    step = run.status.get("step", 0)
    if step or any((folder / COMPLETE).is_file() for folder in folders):
        found = "all are corrupt" if folders else "there is none"
        raise UserError(
            f"{run.checkpoints} must have a usable checkpoint, as the run has come to step {step}, but {found}; "
            "nothing was changed. Put a good copy back, or start again with run.fresh=true (this folder is kept)."
        )
    return None
