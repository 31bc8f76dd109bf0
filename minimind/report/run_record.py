"""What a report reads from one run folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from minimind.report.sweep_file import SweepJob
from minimind.runs.folder import RunFolder
from minimind.runs.identity import is_hashed, leaves
from minimind.runs.lock import effective_state
from minimind.runs.metrics_file import Row, read_rows
from minimind.runs.states import RunState
from minimind.runs.stored_config import read_config
from minimind.utils.errors import DamagedFile
from minimind.utils.files import read_object

# Metrics for which a run's value is the median over its log points, not the last one.
MEDIAN_KEYS = ("train/tokens_per_second", "train/mfu", "train/data_wait_fraction", "train/real_token_fraction",
               "moe/max_load", "moe/dead_experts")  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    job: SweepJob
    path: Path
    state: str  # a RunState
    reason: str | None
    metrics: Mapping[str, float]  # empty unless finished
    rows: list[Row]  # of metrics.jsonl; empty unless finished
    settings: Mapping[str, Any]  # the hashed ones; empty: not started
    status: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return self.state == RunState.FINISHED

    def metric(self, key: str) -> float | None:
        """The value of a finished run, or None if it is missing or not finite."""
        value = self.metrics.get(key)
        return value if value is not None and math.isfinite(value) else None

    def exclusion(self, metric: str) -> str | None:
        """Why the run does not count towards its arm's metric, or None if it does."""
        if not self.finished:
            return self.state + (f": {self.reason}" if self.reason else "")
        if metric not in self.metrics:
            return f"finished without {metric}"
        return None if self.metric(metric) is not None else f"diverged: {metric} is {self.metrics[metric]}"


def read_run(job: SweepJob, path: Path, failure: str | None = None) -> RunRecord:
    """Reads a run; a damaged one counts as failed. `failure`: why its job failed, if the run could not record it."""
    try:
        return _read_run(job, path, failure)
    except DamagedFile as error:
        return RunRecord(job, path, RunState.FAILED, str(error), {}, [], {}, {})


def _read_run(job: SweepJob, path: Path, failure: str | None) -> RunRecord:
    folder = RunFolder(path)
    status = folder.status
    state, reason = effective_state(status.get("state", RunState.NOT_STARTED), folder.lock), status.get("reason")
    if failure and state in (RunState.NOT_STARTED, RunState.INTERRUPTED):
        state, reason = RunState.FAILED, failure
    if state == RunState.FINISHED and not folder.summary.is_file():
        state, reason = RunState.FAILED, f"no {folder.summary.name}"
    rows = read_rows(folder.metrics) if state == RunState.FINISHED else []
    metrics = {**numbers(read_object(folder.summary)), **medians(rows)} if state == RunState.FINISHED else {}
    return RunRecord(job, path, state, reason, metrics, rows, hashed_settings(folder.config), status)


def hashed_settings(config: Path) -> dict[str, Any]:
    if not config.is_file():
        return {}
    return {leaf: value for leaf, value in leaves(read_config(config)).items() if is_hashed(leaf)}


def numbers(summary: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in summary.items() if type(value) in (int, float)}


def medians(rows: list[Row]) -> dict[str, float]:
    """Medians over the log points, except the first, which includes warm-up, unless it is the only one."""
    found = {}
    for key in MEDIAN_KEYS:
        values = [row[key] for row in rows if key in row]
        if values:
            found[key] = median(values[1:] or values)
    return found
