"""A step with a non-finite loss or gradient is skipped and counted; loss spikes are detected."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from minimind.data.examples import TokenBatch
from minimind.model.config import IGNORED, BalanceLoss
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.objectives.protocol import Loss
from minimind.optim.config import OptimKind
from minimind.training.health import MIN_LOSSES, LossSpikes
from minimind.training.module import TrainingModule

from .test_module import DENSE, MOE, build, fit, random_batch


def make_nonfinite(module: TrainingModule, calls: set[int], value: float) -> None:
    """Multiplies the loss of the given micro-batches by a non-finite value."""
    index = iter(range(1000))

    def nonfinite(model: MiniMind, batch: TokenBatch) -> Loss:
        loss = next_token_loss(model, batch)
        return replace(loss, total=loss.total * value) if next(index) in calls else loss

    module.objective.loss = nonfinite  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "config", [DENSE, MOE, {**MOE, "balance_loss": BalanceLoss.loss_free}], ids=["dense", "moe", "bias"]
)
@pytest.mark.parametrize("optim", [{}, {"kind": OptimKind.muon, "momentum": 0.9}], ids=["adamw", "muon"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nonfinite_step_is_skipped_and_counted(
    config: dict[str, object], optim: dict[str, Any], value: float, tmp_path: Path
) -> None:
    """Weights, moments and the optimizer's step count equal those of a run without the batch."""
    torch.manual_seed(1)
    batches = [random_batch(2) for _ in range(6)]  # three steps of two micro-batches
    module, reference = build(config, **optim), build(config, **optim)
    make_nonfinite(module, {3}, value)
    fit(module, batches, 2, tmp_path)
    fit(reference, batches[:2] + batches[4:], 2, tmp_path)
    for (name, a), b in zip(module.model.state_dict().items(), reference.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    actual, expected_state = (m.trainer.optimizers[0].state_dict()["state"] for m in (module, reference))
    for number, state in expected_state.items():
        assert all(torch.equal(value, actual[number][key]) for key, value in state.items())
    sums, expected = module.window_sums.take(), reference.window_sums.take()
    assert (sums["steps"].item(), sums["skipped"].item()) == (3, 1)
    assert sums["tokens"].item() == 6 * 2 * 16
    for name in {"loss", "weight", "grad_norm", "moe/balance_loss", "moe/load"} & set(expected):
        assert torch.equal(sums[name], expected[name]), name
    assert module.last_good_step.item() == 3


@pytest.mark.parametrize("config", [DENSE, {**MOE, "balance_loss": BalanceLoss.loss_free}], ids=["dense", "bias"])
def test_a_step_of_zero_weight_changes_nothing(config: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, second = random_batch(2), random_batch(2)
    empty = TokenBatch(first.input_ids, torch.full_like(first.labels, IGNORED))
    module, reference = build(config), build(config)
    fit(module, [first, first, empty, empty, second, second], 2, tmp_path)
    fit(reference, [first, first, second, second], 2, tmp_path)
    for (name, a), b in zip(module.model.state_dict().items(), reference.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    sums = module.window_sums.take()
    assert [sums[name].item() for name in ("steps", "skipped", "empty")] == [3, 0, 1]
    assert module.last_good_step.item() == 3  # an empty step does not count towards stopping the run
    assert torch.equal(sums["loss"], reference.window_sums.take()["loss"])


def test_consecutive_nonfinite_steps_are_counted_from_the_last_good_step(tmp_path: Path) -> None:
    module = build(DENSE)
    make_nonfinite(module, {2, 3, 4}, float("nan"))
    fit(module, [random_batch(1)] * 5, 1, tmp_path)
    assert module.trainer.global_step - module.last_good_step.item() == 3


def test_float16_gradients_are_unscaled_before_their_norm(tmp_path: Path) -> None:
    """The norm equals that of float32 up to rounding, and checkpoints include the scaler's state."""
    from lightning.pytorch.plugins import MixedPrecision

    norms = []
    batch = random_batch(4)
    for half in (False, True):
        module = build(DENSE)
        plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))] if half else []
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, limit_val_batches=0, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, plugins=plugins,
        )  # fmt: skip
        trainer.fit(module, DataLoader([[batch]], batch_size=None), DataLoader([[batch]], batch_size=None))  # type: ignore[arg-type]
        norms.append(module.window_sums.take()["grad_norm"].item())
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)
    assert trainer._checkpoint_connector.dump_checkpoint(weights_only=False)["MixedPrecision"]["scale"] == 1024.0


def test_a_spike_is_detected_but_a_falling_loss_is_not() -> None:
    spikes = LossSpikes()
    falling = [8 * 0.97**i + 0.02 * (-1) ** i for i in range(60)]
    assert [spikes.height(loss) for loss in falling] == [None] * 60
    assert spikes.height(9.0) == pytest.approx(9.0 - sorted(falling[-20:])[10], abs=0.2)
    assert spikes.height(falling[-1]) is None  # one outlier does not change the rule


def test_nothing_is_a_spike_before_enough_losses_are_recorded() -> None:
    spikes = LossSpikes()
    for _ in range(MIN_LOSSES - 1):
        assert spikes.height(1.0) is None
    assert spikes.height(50.0) is None
    assert spikes.height(50.0) == pytest.approx(49.0)
