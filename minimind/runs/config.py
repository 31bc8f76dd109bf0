"""How a run is named, and where it stands."""

from dataclasses import dataclass


@dataclass
class RunConfig:
    name: str | None = None  # label of the folder; None: <model>-<data>
    tag: str | None = None  # changes the identity, for one more run of the same configuration
    fresh: bool = False  # move the old folder aside and start again
    resume: str = "auto"  # auto, must, never, or a run folder
    accept_data_change: bool = False
    command: str | None = None  # what was typed; filled in, for the record


@dataclass
class PathsConfig:
    root: str | None = None  # None: $MINIMIND_ROOT, or the folder of train.py
    runs: str = "${paths.root}/runs"
    cache: str = "${paths.root}/cache"
