"""Seconds of training, without those of validations, samples and the like."""

import time
from typing import Any, NamedTuple


class Lap(NamedTuple):
    span_s: float  # since the last log point, pauses left out
    stall_s: float  # of it, in which training waited for a checkpoint


class Clock:
    def __init__(self) -> None:
        self.elapsed_s = 0.0  # of all laps, of earlier starts too
        self._mark = time.perf_counter()
        self._stall_s = 0.0

    def start(self) -> None:
        self._mark = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """These since the last lap were neither training nor waiting for data."""
        self._mark += seconds

    def stall(self, seconds: float) -> None:
        self._stall_s += seconds

    def lap(self) -> Lap:
        now = time.perf_counter()
        lap = Lap(now - self._mark, self._stall_s)
        self._mark, self._stall_s = now, 0.0
        self.elapsed_s += lap.span_s
        return lap

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.elapsed_s = state["elapsed_s"]
