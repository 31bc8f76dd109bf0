"""Extracts from a run folder what must stay bit-identical across code changes: values, not times or file formats."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

# Fields of rows, summaries and evaluations that differ between two runs of the same code.
TIMES = {
    "elapsed_s", "command_s", "train/tokens_per_second", "train/mfu", "train/data_wait_fraction",
    "train/checkpoint_stall_s", "memory/host_peak_mib",
}  # fmt: skip
STATUS = ("state", "step", "tokens", "reason", "best_checkpoint", "auto", "data_fingerprint", "parameters")


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def sha256_of(thing: Any) -> str:
    """Hash a tensor's dtype, shape and bytes, or plain values as JSON, in which each float64 has a unique spelling."""
    if not isinstance(thing, torch.Tensor):
        return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256(f"{thing.dtype} {tuple(thing.shape)} ".encode())
    digest.update(thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def newest_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights by name, and the optimizer state by parameter and state name.

    The only function that depends on the checkpoint format: add support for new formats here and keep the old ones.
    """
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1]
    state = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
    (optimizer,) = state["optimizer_states"]
    moments = {f"{name}/{key}": value for name, of in optimizer["state"].items() for key, value in of.items()}
    return state["state_dict"], moments


def json_lines(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a file, without times; empty if the file does not exist."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be incomplete
    return [without_times(json.loads(line)) for line in lines]


def measured(folder: Path) -> dict[str, Any]:
    """Extract each part of the run: values by name, or rows."""
    weights, moments = newest_state(folder)
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    evaluations = sorted((folder / "evaluations").glob("*.json"))
    return {
        "status": {key: status.get(key) for key in STATUS},
        "rows": json_lines(folder / "metrics.jsonl"),
        "summary": without_times(json.loads((folder / "summary.json").read_text(encoding="utf-8"))),
        "samples": json_lines(folder / "samples.jsonl"),
        "histograms": [
            {"step": row["step"], "sha256": sha256_of(row)} for row in json_lines(folder / "histograms.jsonl")
        ],
        "evaluations": {path.name: without_times(json.loads(path.read_text(encoding="utf-8"))) for path in evaluations},
        "weights": {name: sha256_of(tensor) for name, tensor in weights.items()},
        "moments": {name: sha256_of(value) for name, value in moments.items()},
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each part of a run that has changed."""
    found = []
    for part in dict.fromkeys([*before, *now]):
        old, new = before.get(part), now.get(part)
        if sha256_of(old) == sha256_of(new):  # compared by hash because NaN is not equal to itself
            continue
        if isinstance(old, list) and isinstance(new, list):
            found.append(f"{part}: {_of_rows(old, new)}")
        elif isinstance(old, dict) and isinstance(new, dict):
            found.append(f"{part}: {_of_values(old, new)}")
        else:
            found.append(f"{part}: {_short(old)} → {_short(new)}")
    return found


def _of_rows(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    """Describe the first row that differs, and how many do."""
    differing = [index for index, (a, b) in enumerate(zip(old, new, strict=False)) if sha256_of(a) != sha256_of(b)]
    counts = "" if len(old) == len(new) else f"{len(old)} rows → {len(new)}; "
    if not differing:
        return f"{counts}the others are equal"
    first = differing[0]
    where = f"row {first + 1} (step {old[first].get('step')})"
    return f"{counts}{len(differing)} of {len(old)} differ, first {where}: {_of_values(old[first], new[first])}"


def _of_values(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*old, *new]) if _text(old, key) != _text(new, key)]
    shown = ", ".join(f"{key} {_short(_text(old, key))} → {_short(_text(new, key))}" for key in keys[:3])
    return f"{len(keys)} of {len(old)} differ: {shown}{', …' if len(keys) > 3 else ''}"


def _text(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], sort_keys=True, ensure_ascii=False) if key in values else "missing"


def _short(value: Any) -> str:
    text = re.sub(r'^"([0-9a-f]{8})[0-9a-f]{56}"$', r"\1…", str(value))  # a hash
    return text if len(text) <= 60 else f"{text[:57]}…"
