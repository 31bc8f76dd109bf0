"""The learning rate as a pure function of the step: warm-up, a stable phase, decay."""

import math
from collections.abc import Callable

from minimind.optim.config import Decay, ScheduleConfig

# What is left of the way down when a share of the decay is over: 1 at 0, 0 at 1.
DECAYS: dict[Decay, Callable[[float], float]] = {
    Decay.cosine: lambda share: 0.5 * (1 + math.cos(math.pi * share)),  # Loshchilov & Hutter 2017
    Decay.linear: lambda share: 1 - share,
    Decay.one_minus_sqrt: lambda share: 1 - math.sqrt(share),  # Hägele et al. 2024
}


def learning_rate_factor(cfg: ScheduleConfig, step: int) -> float:
    """The factor of the peak rate for the update that follows `step` finished ones.

    Linear warm-up; the peak; then down to `final_ratio` over the last `decay_fraction` of the steps after the warm-up.
    A constant rate is one whose final ratio is 1; a cosine decays all the time.
    """
    if cfg.horizon_steps is None:
        raise ValueError("A schedule needs its horizon in steps; a run's is known when its data are prepared.")
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    decay_steps = cfg.decay_fraction * (cfg.horizon_steps - cfg.warmup_steps)
    decayed = step - (cfg.horizon_steps - decay_steps)
    share = min(1.0, max(0.0, decayed / max(1.0, decay_steps)))
    return cfg.final_ratio + (1 - cfg.final_ratio) * DECAYS[cfg.decay](share)
