"""The learning rate over a run, for any settings."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimind.optim.config import Decay, ScheduleConfig
from minimind.optim.schedules import learning_rate_factor

SCHEDULES = st.builds(
    lambda horizon, warmup, **rest: ScheduleConfig(horizon_steps=horizon, warmup_steps=min(warmup, horizon), **rest),
    horizon=st.integers(1, 300), warmup=st.integers(0, 100), decay=st.sampled_from(Decay),
    decay_fraction=st.floats(0.01, 1), final_ratio=st.floats(0, 1),
)  # fmt: skip


def factors(cfg: ScheduleConfig, steps: int) -> list[float]:
    return [learning_rate_factor(cfg, step) for step in range(steps)]


@given(SCHEDULES)
def test_rate_warms_up_then_never_rises_and_ends_at_the_final_ratio(cfg: ScheduleConfig) -> None:
    assert cfg.horizon_steps is not None
    rates = factors(cfg, cfg.horizon_steps + 10)
    up, down = rates[: cfg.warmup_steps], rates[cfg.warmup_steps :]
    assert up == pytest.approx([(step + 1) / cfg.warmup_steps for step in range(cfg.warmup_steps)])
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(down))
    stable_steps = int((1 - cfg.decay_fraction) * (cfg.horizon_steps - cfg.warmup_steps))
    assert down[:stable_steps] == pytest.approx([1.0] * stable_steps)
    assert down[-9:] == pytest.approx([cfg.final_ratio] * 9)


@given(st.sampled_from(Decay), st.floats(0.01, 1))
def test_final_ratio_of_one_keeps_the_rate_constant(decay: Decay, fraction: float) -> None:
    cfg = ScheduleConfig(horizon_steps=50, decay=decay, decay_fraction=fraction, final_ratio=1.0)
    assert factors(cfg, 60) == pytest.approx([1.0] * 60)


def test_cosine_matches_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.1)
    expected = []
    for _ in range(41):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert factors(ScheduleConfig(horizon_steps=40, decay=Decay.cosine, final_ratio=0.1), 41) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decay", "halfway"), [(Decay.cosine, 1 / 2), (Decay.linear, 1 / 2), (Decay.one_minus_sqrt, 1 / 4)]
)
def test_factor_halfway_through_the_decay(decay: Decay, halfway: float) -> None:
    cfg = ScheduleConfig(horizon_steps=1000, decay=decay, decay_fraction=0.4, final_ratio=0.2)
    assert learning_rate_factor(cfg, 600) == 1.0
    assert learning_rate_factor(cfg, 600 + int(400 * halfway)) == pytest.approx(0.6)


def test_linear_decay_falls_by_the_same_amount_at_each_step() -> None:
    rates = factors(ScheduleConfig(horizon_steps=30, decay=Decay.linear, final_ratio=0.0), 31)
    assert [a - b for a, b in itertools.pairwise(rates)] == pytest.approx([1 / 30] * 30)


def test_horizon_is_required() -> None:
    with pytest.raises(ValueError, match="horizon_steps"):
        learning_rate_factor(ScheduleConfig(), 0)
