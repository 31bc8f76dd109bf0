"""The runs of an arm as one curve: mean, lowest and highest at each step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimind.report.run_record import RunRecord

FEWEST_VALIDATIONS = 4  # that make a curve
FEWEST_POINTS = 3  # of a curve that has a steep beginning to leave out


@dataclass(frozen=True)
class Curve:
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve_of(runs: Sequence[RunRecord], x_key: str, y_key: str, window: int = 1) -> Curve | None:
    """Joined at the steps that all runs logged; `window`: log points of the moving average."""
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
    joined = np.array([[of_run[step] for step in steps] for of_run in points])  # (runs, steps, 2)
    values = np.stack([moving_average(of_run, window) for of_run in joined[:, :, 1]])
    return Curve(joined[:, :, 0].mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred; towards the ends over as many as there are on both sides."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def usual_window(runs: Sequence[RunRecord]) -> int:
    """An odd number of log points, about a twentieth of a run."""
    lengths = [sum("train/loss" in row for row in run.rows) for run in runs]
    return max(lengths, default=0) // 40 * 2 + 1


def visible_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Limits for y that leave out the steep beginning, and a curve that left the others for above."""
    if max((len(curve.x) for curve in curves), default=0) < FEWEST_POINTS:
        return None
    late = [curve.high[curve.x >= curve.x[0] + 0.2 * (curve.x[-1] - curve.x[0])].max() for curve in curves]
    starts = [curve.mean[0] for curve in curves]
    bottom = min(curve.low.min() for curve in curves)
    top = min(max(late), float(np.median(starts)))
    return (bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom)) if top > bottom else None
