"""sweep.json: the runs of a sweep and the question they answer."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.files import read_object, write_json

SWEEP_FILE = "sweep.json"
OUTCOMES_FILE = "outcomes.json"


@dataclass(frozen=True)
class SweepJob:
    """A run as a member of an arm. Arms with the same settings share their runs."""

    arm: str
    replicate: int  # the seed or, in a cost ablation, the number of the repeat
    run: str  # the run folder, relative to the root if it is below it
    overrides: list[str]


@dataclass(frozen=True)
class Sweep:
    name: str
    command: str  # to reproduce it
    kind: str  # quality or cost
    baseline: str
    metric: str
    arms: dict[str, list[str]]  # name → overrides that define it; includes the baseline
    jobs: list[SweepJob]
    question: str | None = None  # None: the sweep is not an ablation
    claim: str | None = None
    margin: float | None = None
    budget: str | None = None
    columns: list[str] = field(default_factory=list)
    # arm → hashed settings in which it differs from the baseline; all others are held constant
    differs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What distinguishes the runs of an arm."""
        return "repeat" if self.kind == "cost" else "seed"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SWEEP_FILE, asdict(self))

    def replicates(self) -> list[int]:
        return sorted({job.replicate for job in self.jobs})


def load_sweep(folder: Path) -> Sweep:
    """Raises: UserError, if sweep.json is missing or damaged."""
    if not (folder / SWEEP_FILE).is_file():
        raise UserError(f"{folder} is not a sweep folder: it has no {SWEEP_FILE}.")
    content = read_object(folder / SWEEP_FILE)
    try:
        jobs = [SweepJob(**job) for job in content["jobs"]]
        # The file's arms are sorted by name; the jobs are in planned order.
        arms = {arm: content["arms"][arm] for arm in dict.fromkeys(job.arm for job in jobs)}
        return Sweep(**{**content, "jobs": jobs, "arms": arms})
    except (KeyError, TypeError):
        raise DamagedFile(
            f"{folder / SWEEP_FILE} must describe a sweep, but has missing or unknown fields; run the sweep's command "
            "again, which rewrites it and keeps the runs."
        ) from None


def save_outcomes(folder: Path, failures: dict[str, str]) -> None:
    """Saves why jobs of the latest launch failed, by run folder name: a killed run cannot record it itself."""
    write_json(folder / OUTCOMES_FILE, failures)


def load_outcomes(folder: Path) -> dict[str, str]:
    return read_object(folder / OUTCOMES_FILE) if (folder / OUTCOMES_FILE).is_file() else {}
