"""The best value of the metric that an objective is judged by."""

import math
from typing import Any


class Best:
    """Args:
    primary: the metric, and whether the smallest ("min") or the largest ("max") value is best.
    """

    def __init__(self, primary: tuple[str, str]) -> None:
        self.metric, self.end = primary
        self.value: float | None = None
        self.step = -1

    def is_better(self, value: float, than: float | None, margin: float = 0.0) -> bool:
        """By more than the margin; anything finite is better than nothing."""
        if not math.isfinite(value):
            return False
        return than is None or (value < than - margin if self.end == "min" else value > than + margin)

    def see(self, step: int, value: float | None) -> None:
        """Takes the value of a validation; None: it has none."""
        if value is not None and self.is_better(value, self.value):
            self.value, self.step = value, step

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.value, "best_step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.step = state["best"], state["best_step"]
