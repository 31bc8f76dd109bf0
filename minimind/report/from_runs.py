"""Runs that were started one by one → a sweep: arms are what they differ in."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from minimind.objectives.config import primary_of
from minimind.report.run_record import hashed_settings
from minimind.report.sweep_file import Sweep, SweepJob
from minimind.runs.folder import RunFolder
from minimind.utils.errors import UserError

REPLICATES = ("seed", "run.tag")  # do not make another arm
NAMED = 3  # settings in an arm's name, at most if that is enough to tell the arms apart
Settings = dict[str, Any]


def sweep_of(folders: Sequence[Path], root: Path) -> Sweep:
    """The first run's arm is the baseline, and its objective names the metric.

    Raises:
        UserError: one is no run folder, or two runs are of the same arm and seed.
    """
    settings = [_settings(folder) for folder in folders]
    arms: list[Settings] = []  # distinct, in the order they come
    members = []
    for of_run in settings:
        arm = {key: value for key, value in of_run.items() if key not in REPLICATES}
        if arm not in arms:
            arms.append(arm)
        members.append(arms.index(arm))
    differing = [key for key in _all_keys(arms) if any(arm.get(key) != arms[0].get(key) for arm in arms)]
    names = arm_names(arms, differing)
    jobs = [
        SweepJob(
            names[arm], of_run["seed"], str(folder.relative_to(root) if folder.is_relative_to(root) else folder), []
        )
        for arm, of_run, folder in zip(members, settings, folders, strict=True)
    ]
    _refuse_twice(jobs)
    metric, _ = primary_of(settings[0].get("objective.kind"))
    return Sweep(
        name=f"report-{_digest(jobs)}",
        command=" ".join(["minimind report", *(job.run for job in jobs)]),
        kind="quality", baseline=names[0], metric=metric, jobs=jobs,
        arms={name: [] for name in names},
        differs={
            name: [key for key in differing if arm.get(key) != arms[0].get(key)]
            for name, arm in zip(names[1:], arms[1:], strict=True)
        },
    )  # fmt: skip


def _settings(folder: Path) -> Settings:
    if not (settings := hashed_settings(RunFolder(folder).config)):
        raise UserError(f"A run folder must be given, but {folder} has no config.yaml; name runs/<run>.")
    return settings


def _all_keys(arms: list[Settings]) -> list[str]:
    return list(dict.fromkeys(key for arm in arms for key in arm))


def arm_names(arms: list[Settings], differing: list[str]) -> list[str]:
    """`key=value` of the settings that differ, or (…) of the fewest that tell the arms apart."""
    if not differing:
        return ["runs"]
    chosen = tuple(differing)
    if len(differing) > NAMED:
        fewer = (keys for count in range(1, NAMED + 1) for keys in combinations(differing, count) if _tell(keys, arms))
        chosen = next(fewer, chosen)
    short = {key: _shortest(key, differing) for key in chosen}
    more = ", …" if len(chosen) < len(differing) else ""
    return [", ".join(f"{short[key]}={arm.get(key)}" for key in chosen) + more for arm in arms]


def _tell(keys: Sequence[str], arms: list[Settings]) -> bool:
    return len({tuple(str(arm.get(key)) for key in keys) for arm in arms}) == len(arms)


def _shortest(key: str, others: list[str]) -> str:
    """The end of a dotted key that none of the others has."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in others) == 1), key)


def _refuse_twice(jobs: list[SweepJob]) -> None:
    seen: dict[tuple[str, int], SweepJob] = {}
    for job in jobs:
        if other := seen.get((job.arm, job.replicate)):
            raise UserError(
                f"Each run must be another arm or seed, but {other.run} and {job.run} are both `{job.arm}` with seed "
                f"{job.replicate}; leave one out."
            )
        seen[job.arm, job.replicate] = job


def _digest(jobs: list[SweepJob]) -> str:
    return hashlib.sha256("\n".join(sorted(job.run for job in jobs)).encode()).hexdigest()[:8]
