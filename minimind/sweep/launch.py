"""Runs the jobs of any Hydra sweeper through the queue; called by `QueueLauncher`."""

import json
import re
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from minimind.config.auto import device_request
from minimind.report.sweep_file import SWEEP_FILE, load_sweep, save_outcomes
from minimind.runs.states import Exit, JobState
from minimind.sweep.compose import Compose, Composed
from minimind.sweep.queue import Job, Queue
from minimind.sweep.slots import Slots, visible_gpus
from minimind.sweep.table import SweepProgress, reason_of
from minimind.training.config import TrainerConfig
from minimind.utils.child import python_module, start

LOGS = "logs"
MAX_NAME = 100  # bytes


def run_queue(
    job_overrides: Sequence[Sequence[str]], compose: Compose, folder: Path, num_parallel: int | None, command: list[str]
) -> list[int]:
    """Args:
        folder: of the sweep; if it has a sweep.json, the table shows arms, else overrides.
        command: starts a job when the path of its settings file is appended.

    Returns:
        The exit code of each job.

    Raises:
        ConfigError: a job's settings are invalid; raised before the first job starts.
    """
    composed = [compose(overrides) for overrides in job_overrides]
    columns, labels = job_labels(job_overrides, composed, folder)
    logs = [folder / LOGS / name for name in log_names(labels)]
    trainers = [one.plan.cfg.trainer for one in composed]
    cpu_only = all(trainer.accelerator == "cpu" for trainer in trainers)
    slots = Slots([] if cpu_only else visible_gpus(), num_parallel)
    autos = resolve_auto(trainers, slots.fewest_cores())
    jobs = [
        Job(label, one.plan, one.frozen, log, auto)
        for label, one, log, auto in zip(labels, composed, logs, autos, strict=True)
    ]
    progress = SweepProgress(jobs, columns)
    queue = Queue(jobs, slots, command, progress.update)
    with progress.display():
        queue.run(progress.refresh)
    progress.print_failures()
    save_outcomes(folder, {job.plan.folder.path.name: reason_of(job) for job in jobs if job.state == JobState.FAILED})
    return [Exit.FAILED if job.code is None else job.code for job in jobs]


def resolve_auto(trainers: Sequence[TrainerConfig], cores: Collection[int]) -> list[dict[str, Any]]:
    """What `auto` means for each job, resolved once for all jobs in a subprocess, so that this process needs no torch.

    Empty for a single job and for a job whose settings the device cannot satisfy: the job resolves it and reports why.

    Args:
        cores: those of the job that has the fewest, so that all jobs use the same number of threads.
    """
    requests = [device_request(trainer) for trainer in trainers]
    if len(requests) < 2:
        return [{} for _ in requests]
    distinct = list(dict.fromkeys(requests))
    child = start(
        python_module("minimind.config.auto"), cores=cores,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    output, _ = child.communicate(json.dumps(distinct).encode())
    resolved = dict(zip(distinct, json.loads(output), strict=True)) if child.returncode == 0 else {}
    return [resolved.get(request, {}) for request in requests]


def log_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """A unique file name per job, short enough for any file system."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w.=-]+", "_", "-".join(label)).encode()[:MAX_NAME].decode(errors="ignore")
        names.append(f"{name}-{len(names)}.log" if f"{name}.log" in names else f"{name}.log")
    return names


def job_labels(
    job_overrides: Sequence[Sequence[str]], composed: Sequence[Composed], folder: Path
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Column names, and for each job the cells that identify it."""
    if (folder / SWEEP_FILE).is_file():
        sweep = load_sweep(folder)
        arms: dict[str, tuple[str, str]] = {}
        for job in sweep.jobs:  # arms with the same settings share a run
            name = Path(job.run).name
            arms[name] = (f"{arms[name][0]} = {job.arm}" if name in arms else job.arm, str(job.replicate))
        return ["arm", sweep.unit], [arms[one.plan.folder.path.name] for one in composed]
    common = set[str].intersection(*map(set, job_overrides))
    rest = [" ".join(o for o in overrides if o not in common) for overrides in job_overrides]
    return ["job"], [(text or f"job {number}",) for number, text in enumerate(rest)]
