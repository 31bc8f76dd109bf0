"""How a run is named, and where it stands."""

from dataclasses import dataclass

from minimind.utils.errors import ConfigError


@dataclass
class RunConfig:
    name: str | None = None  # label of the folder; None: <model>-<data>
    tag: str | None = None  # changes the identity, for one more run of the same configuration
    fresh: bool = False  # move the old folder aside and start again
    resume: str = "auto"  # auto, must, never, or a run folder
    accept_data_change: bool = False
    command: str | None = None  # what was typed; filled in, for the record
    max_minutes: float | None = None  # of this start; then a checkpoint, and the end as if by a signal
    requeue: bool = False  # under SLURM: the job goes back into the queue after SIGUSR1 or max_minutes

    def __post_init__(self) -> None:
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ConfigError([f"`run.max_minutes` must be above 0 (or null: no limit), but is {self.max_minutes}."])


@dataclass
class PathsConfig:
    root: str | None = None  # None: $MINIMIND_ROOT, or the folder of train.py
    runs: str = "${paths.root}/runs"
    sweeps: str = "${paths.root}/sweeps"
    cache: str = "${paths.root}/cache"
