"""Configuration of an ablation: its question, arms, metric and margin."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from minimind.utils.errors import ConfigError


class Kind(Enum):
    quality = "quality"  # what the model learns: every arm has the same seeds
    cost = "cost"  # speed or memory: repeats of one seed, interleaved, one at a time


class Budget(Enum):
    """The quantity that every arm has as much of as the baseline."""

    steps = "steps"
    tokens = "tokens"
    flops = "flops"


@dataclass
class AblationConfig:
    question: str = MISSING
    claim: str = MISSING  # the claim under test, with its source
    baseline: str = MISSING  # the arm that the others are compared with
    arms: dict[str, list[str]] = field(default_factory=dict)  # name → overrides
    common: list[str] = field(default_factory=list)  # overrides for all arms; the command line takes precedence
    kind: Kind = Kind.quality
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    repeats: int = 5  # per arm, for `kind: cost`, in place of seeds
    metric: str | None = None  # key of summary.json to compare; None: the objective's primary metric
    columns: list[str] = field(default_factory=list)  # more keys of summary.json to show in the table
    margin: float = MISSING  # the smallest difference that matters, in units of the metric (cost: a fraction)
    budget: Budget = Budget.steps

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: AblationConfig) -> list[str]:
    found = []
    if len(cfg.arms) < 2:
        found.append(f"`ablation.arms` must have at least two arms, but has {len(cfg.arms)}: add `name: [overrides]`.")
    if cfg.baseline not in cfg.arms:
        found.append(f"`ablation.baseline` must be one of the arms ({', '.join(cfg.arms)}), but is {cfg.baseline}.")
    if len(set(cfg.seeds)) != len(cfg.seeds) or not cfg.seeds:
        found.append(f"`ablation.seeds` must be one or more distinct numbers, but is {list(cfg.seeds)}.")
    if cfg.repeats < 1:
        found.append(f"`ablation.repeats` must be at least 1, but is {cfg.repeats}.")
    if cfg.margin < 0:
        found.append(f"`ablation.margin` must be at least 0, but is {cfg.margin}.")
    return found
