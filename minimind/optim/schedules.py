"""The learning rate as a pure function of the step: warm-up, a stable phase, decay."""

import math
from collections.abc import Callable

from minimind.optim.config import Decay, ScheduleConfig

# Fraction of the decay that remains as its progress goes from 0 to 1: 1 at 0, 0 at 1.
DECAYS: dict[Decay, Callable[[float], float]] = {
    Decay.cosine: lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),  # Loshchilov & Hutter 2017
    Decay.linear: lambda progress: 1 - progress,
    Decay.one_minus_sqrt: lambda progress: 1 - math.sqrt(progress),  # Hägele et al. 2024
}


def learning_rate_factor(cfg: ScheduleConfig, step: int) -> float:
    """Factor on the peak learning rate for the update after `step` completed ones.

    Linear warm-up, then the peak, then decay to `final_ratio` over the last `decay_fraction` of the steps after the
    warm-up. With `final_ratio` 1 the rate is constant; with `decay_fraction` 1 it decays from the end of the warm-up.
    """
    if cfg.horizon_steps is None:
        raise ValueError("`schedule.horizon_steps` must be resolved before training, but is null.")
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    decay_steps = cfg.decay_fraction * (cfg.horizon_steps - cfg.warmup_steps)
    steps_into_decay = step - (cfg.horizon_steps - decay_steps)
    progress = min(1.0, max(0.0, steps_into_decay / max(1.0, decay_steps)))
    return cfg.final_ratio + (1 - cfg.final_ratio) * DECAYS[cfg.decay](progress)
