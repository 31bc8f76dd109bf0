"""Converts checkpoint states of earlier versions to the current format."""

from typing import Any


def upgrade(state: dict[str, Any]) -> None:
    """Convert in place; a current state is left unchanged."""
    training = state.get("training", {})
    window = training.get("window", {})
    if "good_tokens" in window:
        window = training["window"] = _renamed(window)
    if window and "empty" not in window:
        window["empty"] = window["skipped"].clone().zero_()
    loop = state.get("loops", {}).get("fit_loop", {})
    progress = loop.get("epoch_loop.manual_optimization.optim_step_progress")
    if progress and progress["total"]["completed"] < state["global_step"]:
        _count_steps(loop, state["global_step"])


def _renamed(window: dict[str, Any]) -> dict[str, Any]:
    """Convert sums since the last log point from when every loss was divided by the number of target tokens."""
    names = {"good_tokens": "weight", "balance_loss": "moe/balance_loss", "expert_load": "moe/load"}
    window = {names.get(name, name): value for name, value in window.items()}
    counts = {f"{name}/count": window["weight"].clone() for name in ("moe/balance_loss", "moe/load") if name in window}
    return window | counts


def _count_steps(loop: dict[str, Any], step: int) -> None:
    """Convert Lightning's counters, which counted micro-batches under automatic optimization."""
    batches = loop["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        unfinished = count["ready"] - count["completed"]  # 1 for a checkpoint between a step and its validation
        count |= {"ready": step, "started": step, "processed": step, "completed": step - unfinished}
    progress = loop["epoch_loop.manual_optimization.optim_step_progress"]
    for count in (progress["total"], progress["current"]):
        count |= {"ready": step, "completed": step}
