"""Checkpoints of earlier versions, as this one would have written them."""

from typing import Any

from minimind.training.sums import COUNT


def upgrade(state: dict[str, Any]) -> None:
    """In place; what is up to date stays as it is."""
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
    """Sums since the last log point, when the target tokens were all that a loss could be divided by."""
    names = {"good_tokens": "weight", "balance_loss": "moe/balance_loss", "expert_load": "moe/load"}
    window = {names.get(name, name): value for name, value in window.items()}
    counts = {name + COUNT: window["weight"].clone() for name in ("moe/balance_loss", "moe/load") if name in window}
    return window | counts


def _count_steps(loop: dict[str, Any], step: int) -> None:
    """Lightning's counters, when it optimized by itself and counted micro-batches."""
    batches = loop["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        unfinished = count["ready"] - count["completed"]  # 1 for a checkpoint between a step and its validation
        count |= {"ready": step, "started": step, "processed": step, "completed": step - unfinished}
    progress = loop["epoch_loop.manual_optimization.optim_step_progress"]
    for count in (progress["total"], progress["current"]):
        count |= {"ready": step, "completed": step}
