"""Learning-rate schedules: pure functions from the step to a factor of the peak rate."""

import math

from minimind.optim.config import ScheduleConfig


def cosine(cfg: ScheduleConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_ratio` at the horizon (Loshchilov & Hutter 2017)."""
    if cfg.horizon_steps is None:
        raise ValueError("A schedule needs its horizon in steps; a run's is known when its data are prepared.")
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, cfg.horizon_steps - cfg.warmup_steps)
    return cfg.final_ratio + (1 - cfg.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES = {"cosine": cosine}


def learning_rate_factor(cfg: ScheduleConfig, step: int) -> float:
    """The factor for the update that follows `step` finished ones."""
    return SCHEDULES[cfg.kind](cfg, step)
