"""What an ablation asks, and which arms answer it."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from minimind.utils.errors import ConfigError


class Kind(Enum):
    quality = "quality"  # what a model learns: the same seeds for every arm
    cost = "cost"  # what it costs: repeats of the same seed, interleaved, one at a time


class Budget(Enum):
    """What every arm has as much of as the baseline."""

    steps = "steps"
    tokens = "tokens"
    flops = "flops"


@dataclass
class AblationConfig:
    question: str = MISSING
    claim: str = MISSING  # that is put to the test, and whose it is
    baseline: str = MISSING  # the arm that the others are compared with
    arms: dict[str, list[str]] = field(default_factory=dict)  # name → overrides
    common: list[str] = field(default_factory=list)  # overrides of all arms; the command line's come after them
    kind: Kind = Kind.quality
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    repeats: int = 5  # of each arm of `kind: cost`, in place of seeds
    metric: str | None = None  # of summary.json, which the verdict is on; None: what the arms' objective is judged by
    columns: list[str] = field(default_factory=list)  # further metrics of summary.json worth a column
    margin: float = MISSING  # the smallest effect worth naming, in units of the metric
    budget: Budget = Budget.steps

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: AblationConfig) -> list[str]:
    found = []
    if len(cfg.arms) < 2:
        found.append(f"`ablation.arms` must have two or more, but has {len(cfg.arms)}: add `name: [overrides]`.")
    if cfg.baseline not in cfg.arms:
        found.append(f"`ablation.baseline` must be one of the arms ({', '.join(cfg.arms)}), but is {cfg.baseline}.")
    if len(set(cfg.seeds)) != len(cfg.seeds) or not cfg.seeds:
        found.append(f"`ablation.seeds` must be different numbers, at least one, but are {list(cfg.seeds)}.")
    if cfg.repeats < 1:
        found.append(f"`ablation.repeats` must be at least 1, but is {cfg.repeats}.")
    if cfg.margin < 0:
        found.append(f"`ablation.margin` must be at least 0, but is {cfg.margin}.")
    return found
