"""Which layout of processes."""

from dataclasses import dataclass

from minimind.utils.errors import ConfigError


@dataclass
class ParallelConfig:
    kind: str = "single"

    def __post_init__(self) -> None:
        if self.kind != "single":
            raise ConfigError([f"`parallel.kind` must be single, but is {self.kind}."])
