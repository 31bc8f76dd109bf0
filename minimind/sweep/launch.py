"""The jobs of any sweeper through our queue: what `QueueLauncher` does."""

import re
from collections.abc import Sequence
from pathlib import Path

from minimind.report.sweep_file import SWEEP_FILE, load_sweep, save_outcomes
from minimind.runs.states import Exit, JobState
from minimind.sweep.auto import answers_for
from minimind.sweep.compose import Compose, Composed
from minimind.sweep.queue import Job, Queue
from minimind.sweep.slots import Slots, visible_gpus
from minimind.sweep.table import SweepProgress, reason_of

LOGS = "logs"
LONGEST_NAME = 100  # bytes


def run_queue(
    job_overrides: Sequence[Sequence[str]], compose: Compose, folder: Path, num_parallel: int | None, command: list[str]
) -> list[int]:
    """Args:
        folder: of the sweep; if it has a sweep.json, the table has its arms, else the overrides.
        command: what starts a job, followed by the file of its settings.

    Returns:
        The exit code of each job.

    Raises:
        ConfigError: what is wrong with any of them, before the first starts.
    """
    composed = [compose(overrides) for overrides in job_overrides]
    columns, labels = labels_of(job_overrides, composed, folder)
    logs = [folder / LOGS / name for name in log_names(labels)]
    trainers = [one.plan.cfg.trainer for one in composed]
    cpu_only = all(trainer.accelerator == "cpu" for trainer in trainers)
    places = Slots([] if cpu_only else visible_gpus(), num_parallel)
    autos = answers_for(trainers, places.fewest_cores())
    jobs = [
        Job(label, one.plan, one.frozen, log, auto)
        for label, one, log, auto in zip(labels, composed, logs, autos, strict=True)
    ]
    progress = SweepProgress(jobs, columns)
    queue = Queue(jobs, places, command, progress.change)
    with progress.showing():
        queue.run(progress.glance)
    progress.print_failures()
    save_outcomes(folder, {job.plan.folder.path.name: reason_of(job) for job in jobs if job.state == JobState.FAILED})
    return [Exit.FAILED if job.code is None else job.code for job in jobs]


def log_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """A file name for each: short enough for any file system, and no two alike."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w.=-]+", "_", "-".join(label)).encode()[:LONGEST_NAME].decode(errors="ignore")
        names.append(f"{name}-{len(names)}.log" if f"{name}.log" in names else f"{name}.log")
    return names


def labels_of(
    job_overrides: Sequence[Sequence[str]], composed: Sequence[Composed], folder: Path
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Column names, and of each job what tells it from the others."""
    if (folder / SWEEP_FILE).is_file():
        sweep = load_sweep(folder)
        arms: dict[str, tuple[str, str]] = {}
        for job in sweep.jobs:  # arms of the same settings share a run
            name = Path(job.run).name
            arms[name] = (f"{arms[name][0]} = {job.arm}" if name in arms else job.arm, str(job.replicate))
        return ["arm", sweep.unit], [arms[one.plan.folder.path.name] for one in composed]
    common = set[str].intersection(*map(set, job_overrides))
    rest = [" ".join(o for o in overrides if o not in common) for overrides in job_overrides]
    return ["job"], [(text or f"job {number}",) for number, text in enumerate(rest)]
