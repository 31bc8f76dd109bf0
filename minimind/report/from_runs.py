"""Builds a sweep from individually started runs: the arms are given by the settings in which they differ."""

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

REPLICATES = ("seed", "run.tag")  # runs that differ only in these are one arm
MAX_NAMED = 3  # settings in an arm's name, if so few distinguish all arms
Settings = dict[str, Any]


def sweep_of(folders: Sequence[Path], root: Path) -> Sweep:
    """The first run's arm is the baseline, and the primary metric of its objective is the metric.

    Raises:
        UserError: a folder is not a run folder, or two runs have the same arm and seed.
    """
    settings = [_settings(folder) for folder in folders]
    arms: list[Settings] = []  # distinct, in order of first appearance
    members = []
    for run_settings in settings:
        arm = {key: value for key, value in run_settings.items() if key not in REPLICATES}
        if arm not in arms:
            arms.append(arm)
        members.append(arms.index(arm))
    differing = [key for key in _all_keys(arms) if any(arm.get(key) != arms[0].get(key) for arm in arms)]
    names = arm_names(arms, differing)
    jobs = [
        SweepJob(names[arm], own["seed"], str(folder.relative_to(root) if folder.is_relative_to(root) else folder), [])
        for arm, own, folder in zip(members, settings, folders, strict=True)
    ]
    _refuse_duplicates(jobs)
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
        raise UserError(f"{folder} is not a run folder: it has no config.yaml. Give runs/<run>.")
    return settings


def _all_keys(arms: list[Settings]) -> list[str]:
    return list(dict.fromkeys(key for arm in arms for key in arm))


def arm_names(arms: list[Settings], differing: list[str]) -> list[str]:
    """Names each arm by `key=value` of the settings that differ or, if there are many, of the fewest that suffice."""
    if not differing:
        return ["runs"]
    chosen = tuple(differing)
    if len(differing) > MAX_NAMED:
        subsets = (keys for count in range(1, MAX_NAMED + 1) for keys in combinations(differing, count))
        chosen = next((keys for keys in subsets if _distinguish(keys, arms)), chosen)
    short = {key: _shortest(key, differing) for key in chosen}
    more = ", …" if len(chosen) < len(differing) else ""
    return [", ".join(f"{short[key]}={arm.get(key)}" for key in chosen) + more for arm in arms]


def _distinguish(keys: Sequence[str], arms: list[Settings]) -> bool:
    return len({tuple(str(arm.get(key)) for key in keys) for arm in arms}) == len(arms)


def _shortest(key: str, others: list[str]) -> str:
    """The shortest suffix of a dotted key that is unique among `others`."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in others) == 1), key)


def _refuse_duplicates(jobs: list[SweepJob]) -> None:
    seen: dict[tuple[str, int], SweepJob] = {}
    for job in jobs:
        if other := seen.get((job.arm, job.replicate)):
            raise UserError(
                f"Each run must have a different arm or seed, but {other.run} and {job.run} are both `{job.arm}` with "
                f"seed {job.replicate}; leave one out."
            )
        seen[job.arm, job.replicate] = job


def _digest(jobs: list[SweepJob]) -> str:
    return hashlib.sha256("\n".join(sorted(job.run for job in jobs)).encode()).hexdigest()[:8]
