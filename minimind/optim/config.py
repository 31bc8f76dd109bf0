"""Settings of the optimizer and of the learning-rate schedule."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from minimind.utils.errors import ConfigError
from minimind.utils.settings import added
from minimind.utils.user_code import load_class


class OptimKind(StrEnum):
    adamw = "adamw"
    muon = "muon"  # matrices of the blocks; AdamW for all other parameters


class Decay(Enum):
    cosine = "cosine"
    linear = "linear"
    one_minus_sqrt = "one_minus_sqrt"


@dataclass
class OptimConfig:
    kind: str = "adamw"  # or muon, or your own torch.optim.Optimizer as module.Class
    lr: float = 8.6e-4
    matrix_lr_ratio: float = 1.0  # learning rate of the blocks' matrices, relative to `lr`
    embedding_lr_ratio: float = 1.0  # learning rate of the token embedding (and a tied head), relative to `lr`
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    momentum: float | None = None  # Muon only
    weight_decay: float = 0.1  # only for the matrices of the blocks
    options: dict[str, Any] = added({})  # keyword arguments of your own optimizer

    def __post_init__(self) -> None:
        if found := optim_problems(self):
            raise ConfigError(found)


@dataclass
class ScheduleConfig:
    warmup_steps: int = 0
    horizon_steps: int | None = None  # end of the schedule, which training need not reach; None: end of training
    decay: Decay = Decay.cosine
    decay_fraction: float = 1.0  # fraction of the steps after the warm-up; before the decay the rate is at its peak
    final_ratio: float = 0.1  # final learning rate relative to the peak; 1: constant

    def __post_init__(self) -> None:
        if found := schedule_problems(self):
            raise ConfigError(found)


def optim_problems(cfg: OptimConfig) -> list[str]:
    found = []
    for name in ("lr", "matrix_lr_ratio", "embedding_lr_ratio", "eps"):
        if not 0 < getattr(cfg, name) < float("inf"):
            found.append(f"`optim.{name}` must be above 0, but is {getattr(cfg, name)}.")
    if len(cfg.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.betas):
        found.append(f"`optim.betas` must be two numbers from 0 to below 1, but are {list(cfg.betas)}.")
    if cfg.weight_decay < 0:
        found.append(f"`optim.weight_decay` must be at least 0, but is {cfg.weight_decay}.")
    if cfg.kind not in set(OptimKind):
        return found + _user_optimizer_problems(cfg)
    if cfg.options:
        found.append(f"`optim.options` must be empty with optim={cfg.kind}, but is {cfg.options}.")
    if cfg.kind == OptimKind.adamw and cfg.momentum is not None:
        found.append(f"`optim.momentum` must be null with optim=adamw, but is {cfg.momentum}; set optim.betas.")
    if cfg.kind == OptimKind.muon and (cfg.momentum is None or not 0 <= cfg.momentum < 1):
        found.append(f"`optim.momentum` must be from 0 to below 1 with optim=muon, but is {cfg.momentum}; try 0.95.")
    return found


def _user_optimizer_problems(cfg: OptimConfig) -> list[str]:
    """Rules for a user's optimizer, which is passed learning rates, weight decays and `options`."""
    if "." not in cfg.kind:
        return [
            f"`optim.kind` must be one of {', '.join(OptimKind)}, or a class of your own as module.Class, "
            f"but is {cfg.kind}."
        ]
    defaults = OptimConfig()
    found = [
        f"`optim.{name}` is a setting of adamw and muon; with optim.kind={cfg.kind} select optim=own, and set "
        f"optim.options.{name} if the class takes it."
        for name in ("betas", "eps", "momentum")
        if getattr(cfg, name) != getattr(defaults, name)
    ]
    try:
        load_class(cfg.kind, "optim.kind")
    except ConfigError as error:
        found += error.problems
    return found


def schedule_problems(cfg: ScheduleConfig) -> list[str]:
    found = []
    if cfg.warmup_steps < 0 or (cfg.horizon_steps is not None and cfg.warmup_steps > cfg.horizon_steps):
        found.append(
            f"`schedule.warmup_steps` must be between 0 and `schedule.horizon_steps` ({cfg.horizon_steps}), "
            f"but is {cfg.warmup_steps}."
        )
    if not 0 < cfg.decay_fraction <= 1:
        found.append(f"`schedule.decay_fraction` must be above 0 and at most 1, but is {cfg.decay_fraction}.")
    if not 0 <= cfg.final_ratio <= 1:
        found.append(f"`schedule.final_ratio` must be between 0 and 1, but is {cfg.final_ratio}.")
    return found
