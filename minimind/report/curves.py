"""The curve of an arm: mean, minimum and maximum over its runs at each step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimind.report.run_record import RunRecord

MIN_VALIDATIONS = 4  # for a curve of the validation metric
MIN_POINTS = 3  # for cutting off the steep start of a curve


@dataclass(frozen=True)
class Curve:
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve_of(runs: Sequence[RunRecord], x_key: str, y_key: str, window: int = 1) -> Curve | None:
    """Aggregates over the steps that all runs logged. `window`: log points in the moving average of y."""
    points = [
        {
            row["step"]: (row[x_key], row[y_key])
            for row in run.rows
            if x_key in row and math.isfinite(row.get(y_key, math.nan))
        }
        for run in runs
    ]
    steps = sorted(set.intersection(*map(set, points))) if points else []
    if not steps:
        return None
    joined = np.array([[logged[step] for step in steps] for logged in points])  # (runs, steps, 2)
    values = np.stack([moving_average(y, window) for y in joined[:, :, 1]])
    return Curve(joined[:, :, 0].mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average; near the ends the window shrinks symmetrically."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def smoothing_window(runs: Sequence[RunRecord]) -> int:
    """An odd number of log points, about a twentieth of a run."""
    lengths = [sum("train/loss" in row for row in run.rows) for run in runs]
    return max(lengths, default=0) // 40 * 2 + 1


def visible_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Limits for y that cut off the steep start, and curves that diverge upwards."""
    if max((len(curve.x) for curve in curves), default=0) < MIN_POINTS:
        return None
    late = [curve.high[curve.x >= curve.x[0] + 0.2 * (curve.x[-1] - curve.x[0])].max() for curve in curves]
    starts = [curve.mean[0] for curve in curves]
    bottom = min(curve.low.min() for curve in curves)
    top = min(max(late), float(np.median(starts)))
    return (bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom)) if top > bottom else None
