"""sweep.json: which runs a sweep is made of, and what they are to answer."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.files import read_object, write_json

SWEEP_FILE = "sweep.json"
OUTCOMES_FILE = "outcomes.json"


@dataclass(frozen=True)
class SweepJob:
    """One run, as one arm's answer. Two arms of the same settings share a run."""

    arm: str
    replicate: int  # the seed; of a cost ablation the number of the repeat
    run: str  # the run folder, relative to the root where it is below it
    overrides: list[str]


@dataclass(frozen=True)
class Sweep:
    name: str
    command: str  # that repeats it
    kind: str  # quality or cost
    baseline: str
    metric: str
    arms: dict[str, list[str]]  # name → overrides that make it what it is; the baseline among them
    jobs: list[SweepJob]
    question: str | None = None  # none: a sweep that is no ablation
    claim: str | None = None
    margin: float | None = None
    budget: str | None = None
    columns: list[str] = field(default_factory=list)
    # arm → hashed settings in which it differs from the baseline, as composed: what is not here was to be held equal
    differs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What there are several of in an arm."""
        return "repeat" if self.kind == "cost" else "seed"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SWEEP_FILE, asdict(self))

    def replicates(self) -> list[int]:
        return sorted({job.replicate for job in self.jobs})


def load_sweep(folder: Path) -> Sweep:
    """Raises: UserError, if the folder has no sweep.json, or one that is damaged."""
    if not (folder / SWEEP_FILE).is_file():
        raise UserError(f"{folder} must be a sweep folder, but has no {SWEEP_FILE}.")
    content = read_object(folder / SWEEP_FILE)
    try:
        jobs = [SweepJob(**job) for job in content["jobs"]]
        arms = {arm: content["arms"][arm] for arm in dict.fromkeys(job.arm for job in jobs)}  # JSON's are sorted
        return Sweep(**{**content, "jobs": jobs, "arms": arms})
    except (KeyError, TypeError):
        raise DamagedFile(
            f"{folder / SWEEP_FILE} must say which runs a sweep is made of, but lacks some of it; run the sweep's "
            "command again, which writes it anew and keeps its runs."
        ) from None


def save_outcomes(folder: Path, failures: dict[str, str]) -> None:
    """Run folder's name → why its job failed, of the last start: what a killed or refused run cannot say itself."""
    write_json(folder / OUTCOMES_FILE, failures)


def load_outcomes(folder: Path) -> dict[str, str]:
    return read_object(folder / OUTCOMES_FILE) if (folder / OUTCOMES_FILE).is_file() else {}
