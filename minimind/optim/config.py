"""How parameters are updated, and how the learning rate moves."""

from dataclasses import dataclass, field

from minimind.utils.errors import ConfigError


@dataclass
class OptimConfig:
    kind: str = "adamw"
    lr: float = 5e-4
    embedding_lr_ratio: float = 1.0  # learning rate of the embedding (and a tied head) relative to `lr`
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.1  # matrices of the blocks only

    def __post_init__(self) -> None:
        if found := optim_problems(self):
            raise ConfigError(found)


@dataclass
class ScheduleConfig:
    kind: str = "cosine"
    warmup_steps: int = 0
    horizon_steps: int | None = None  # where the schedule ends; training may stop before. None: where training ends
    final_ratio: float = 0.1  # of the peak learning rate

    def __post_init__(self) -> None:
        if found := schedule_problems(self):
            raise ConfigError(found)


def optim_problems(cfg: OptimConfig) -> list[str]:
    found = []
    if cfg.lr <= 0 or cfg.embedding_lr_ratio <= 0:
        found.append(
            f"`optim.lr` and `optim.embedding_lr_ratio` must be above 0, but are {cfg.lr} and {cfg.embedding_lr_ratio}."
        )
    if len(cfg.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.betas):
        found.append(f"`optim.betas` must be two numbers from 0 to below 1, but are {list(cfg.betas)}.")
    if cfg.weight_decay < 0:
        found.append(f"`optim.weight_decay` must be at least 0, but is {cfg.weight_decay}.")
    return found


def schedule_problems(cfg: ScheduleConfig) -> list[str]:
    found = []
    if cfg.warmup_steps < 0 or (cfg.horizon_steps is not None and cfg.warmup_steps > cfg.horizon_steps):
        found.append(
            f"`schedule.warmup_steps` must be between 0 and `schedule.horizon_steps` ({cfg.horizon_steps}), "
            f"but is {cfg.warmup_steps}."
        )
    if not 0 <= cfg.final_ratio <= 1:
        found.append(f"`schedule.final_ratio` must be between 0 and 1, but is {cfg.final_ratio}.")
    return found
