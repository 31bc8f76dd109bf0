"""Progress of a sweep: a live table on a terminal, else a line per state change; at the end a table of failed jobs."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from minimind.report.metrics import metric_of
from minimind.runs.folder import RunFolder
from minimind.runs.states import JobState, RunState
from minimind.sweep.queue import Job
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import DamagedFile
from minimind.utils.files import parse_json
from minimind.utils.terminal import say

REFRESH_S = 1.0
MAX_SHOWN = 24  # with more jobs, queued and finished ones are hidden
TAIL_BYTES = 65536
STYLES = {JobState.FINISHED: "green", JobState.RUNNING: "bold", JobState.FAILED: "red", JobState.STOPPED: "yellow"}


class SweepProgress:
    def __init__(self, jobs: Sequence[Job], columns: Sequence[str]) -> None:
        self.jobs, self.columns = jobs, columns
        self.console = VisibleConsole(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.refreshed = 0.0

    def display(self) -> AbstractContextManager[Any]:
        return self.live or nullcontext()

    def refresh(self) -> None:
        if self.live and time.monotonic() - self.refreshed > REFRESH_S:
            self.refreshed = time.monotonic()
            self.live.update(self.table(), refresh=True)

    def update(self, job: Job) -> None:
        if self.live:
            self.live.update(self.table(), refresh=True)
        elif job.state != JobState.QUEUED:
            ended = sum(one.state in (JobState.FINISHED, JobState.STOPPED, JobState.FAILED) for one in self.jobs)
            metric = " ".join(primary_metric(job))
            name = ", ".join(
                [job.label[0], *(f"{u} {v}" for u, v in zip(self.columns[1:], job.label[1:], strict=True))]
            )
            say(f"[{ended}/{len(self.jobs)}] {name}: {job.state}{f', {metric}' if metric else ''}", file=sys.stderr)

    def table(self) -> Table:
        counts = Counter(job.state for job in self.jobs)
        table = Table(*self.columns, "state", caption=", ".join(f"{n} {state}" for state, n in counts.items()))
        for name in ("step", "metric", "time left"):
            table.add_column(name, justify="right")
        for job in self.jobs:
            if len(self.jobs) <= MAX_SHOWN or job.state not in (JobState.QUEUED, JobState.FINISHED):
                slot = f" ({job.slot.name})" if job.slot else ""
                table.add_row(*job.label, job.state + slot, *progress_of(job), style=STYLES.get(job.state))
        return table

    def print_failures(self) -> None:
        failed = [job for job in self.jobs if job.state == JobState.FAILED]
        if not failed:
            return
        table = Table(*self.columns, title="Failed; rerun the same command to retry them", show_lines=True)
        for name in ("reason", "log"):
            table.add_column(name, overflow="fold")
        for job in failed:
            log = job.log.relative_to(Path.cwd()) if job.log.is_relative_to(Path.cwd()) else job.log
            table.add_row(*job.label, reason_of(job), str(log))
        self.console.print(table)


def progress_of(job: Job) -> tuple[str, str, str]:
    """Step, latest metric and time left of the run, read from its folder."""
    folder, cfg = job.plan.folder, job.plan.cfg
    row = last_row(folder.metrics)
    if job.state == JobState.QUEUED or not row:
        return "", "", ""
    last = cfg.trainer.max_steps or status_of(folder).get("auto", {}).get("max_steps")
    rate, left = row.get("train/tokens_per_second"), ""
    if job.state == JobState.RUNNING and last and rate:
        seconds = (last - row["step"]) * cfg.trainer.batch_tokens / rate
        left = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    step = f"{row['step']:,}/{last:,}" if last else f"{row['step']:,}"
    return step, " ".join(primary_metric(job)), left


def primary_metric(job: Job) -> list[str]:
    """Label and value of the primary metric, or else the training loss, in the newest row; empty if it has neither."""
    row, (primary, _) = last_row(job.plan.folder.metrics), job.plan.cfg.objective.primary
    metric = next((metric_of(key) for key in (primary, "train/loss") if key in row), None)
    if job.state == JobState.QUEUED or metric is None:
        return []
    return ["loss" if metric.key.endswith("/loss") else metric.label, metric.show(row[metric.key])]


def last_row(metrics: Path) -> dict[str, Any]:
    """The newest complete row, without reading a long file; the last line may still be being written."""
    if not metrics.is_file():
        return {}
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    try:
        row = parse_json(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return row if isinstance(row, dict) and "step" in row else {}


def status_of(folder: RunFolder) -> dict[str, Any]:
    """The status; a damaged file counts as a failure of this job, so that the sweep continues."""
    try:
        return folder.status
    except DamagedFile as error:
        return {"state": RunState.FAILED, "reason": str(error)}


def reason_of(job: Job) -> str:
    """Why a job failed: the reason in its status, else the last line it printed."""
    status = status_of(RunFolder(job.plan.folder.path))
    if status.get("state") == RunState.FAILED and status.get("reason"):
        return str(status["reason"]).splitlines()[0]
    if job.code is not None and job.code < 0:
        return f"killed by signal {-job.code}"
    lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n") if job.log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {job.code}")
