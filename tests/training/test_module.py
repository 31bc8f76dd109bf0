"""The training step: what it minimises, and that splitting a batch differently changes nothing."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from pretraining import OneByteTokens, pretraining
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from minimind.data.examples import TokenBatch, TokenSequences
from minimind.evaluation.loop import evaluate
from minimind.evaluation.text_loss import TextMeasure
from minimind.model.config import IGNORED, BalanceLoss, ModelConfig
from minimind.model.moe import Router
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.objectives.protocol import Loss
from minimind.optim.config import OptimConfig, OptimKind, ScheduleConfig
from minimind.training.module import TrainingModule

VOCAB = 61
DENSE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
MOE = {**DENSE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def random_batch(examples: int, length: int = 16, masked: bool = False) -> TokenBatch:
    tokens = torch.randint(VOCAB, (examples, length + 1))
    labels = tokens[:, 1:].clone()
    if masked:
        labels[:, -5:] = IGNORED
        labels[0, 2:] = IGNORED
    return TokenBatch(tokens[:, :-1], labels)


def build(config: dict[str, object], **optim: Any) -> TrainingModule:
    torch.manual_seed(0)
    return TrainingModule(
        MiniMind(ModelConfig(**config)),  # type: ignore[arg-type]
        pretraining(VOCAB),
        optim=OptimConfig(**{"lr": 1e-2, **optim}),
        schedule=ScheduleConfig(horizon_steps=1000, final_ratio=1.0),
        gradient_clip=1.0,
    )


def fit(module: TrainingModule, batches: list[TokenBatch], accumulation: int, folder: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, limit_val_batches=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    steps = [batches[first : first + accumulation] for first in range(0, len(batches), accumulation)]
    trainer.fit(module, DataLoader(steps, batch_size=None), DataLoader(steps, batch_size=None))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_initial_loss_is_that_of_a_uniform_guess(config: dict[str, object]) -> None:
    loss = next_token_loss(build(config).model, random_batch(16))
    assert (loss.total / loss.num_tokens).item() == pytest.approx(math.log(VOCAB), rel=0.05)


@pytest.mark.parametrize(
    ("config", "optim"), [(DENSE, {}), (MOE, {}), (MOE, {"kind": OptimKind.muon, "momentum": 0.9})],
    ids=["dense", "moe", "moe, muon"],
)  # fmt: skip
def test_one_batch_can_be_memorised(config: dict[str, object], optim: dict[str, Any], tmp_path: Path) -> None:
    module = build(config, weight_decay=0.0, **optim)
    batch = random_batch(2)
    fit(module, [batch] * 150, 1, tmp_path)
    loss = next_token_loss(module.model, batch)
    assert (loss.total / loss.num_tokens).item() < 0.05


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulation_changes_nothing(config: dict[str, object], micro_batch: int, tmp_path: Path) -> None:
    """Loss, gradient norm and weights after two steps equal those of whole batches; sequence lengths are unequal."""
    torch.manual_seed(1)
    steps = [random_batch(8, masked=True) for _ in range(2)]
    whole, split = build(config, eps=1e-3), build(config, eps=1e-3)  # a small eps would amplify rounding near zero
    fit(whole, steps, 1, tmp_path)
    pieces = [
        TokenBatch(*(t[i : i + micro_batch] for t in step[:2])) for step in steps for i in range(0, 8, micro_batch)
    ]
    fit(split, pieces, 8 // micro_batch, tmp_path)
    one, other = whole.window_sums.take(), split.window_sums.take()
    for name in ("loss", "tokens", "grad_norm", "steps"):
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=0)
    for (name, a), b in zip(whole.model.named_parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-6, msg=name)


def test_gradient_is_that_of_the_mean_and_is_clipped(tmp_path: Path) -> None:
    batch = random_batch(4, masked=True)
    module = build(DENSE)
    expected = build(DENSE).model
    loss = next_token_loss(expected, batch)
    (loss.total / loss.num_tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    assert norm > 1
    recorded: list[dict[str, Tensor]] = []
    original = module.on_before_optimizer_step

    def record(optimizer: torch.optim.Optimizer) -> None:
        original(optimizer)
        recorded.append({name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None})

    module.on_before_optimizer_step = record  # type: ignore[method-assign]
    fit(module, [batch], 1, tmp_path)
    assert module.window_sums.take()["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(recorded[0][name], parameter.grad, rtol=1e-4, atol=1e-8)


def test_loss_free_balancing_moves_the_bias_against_the_load(tmp_path: Path) -> None:
    module = build({**MOE, "balance_loss": BalanceLoss.loss_free, "router_bias_update_rate": 0.1})
    fit(module, [random_batch(4)], 1, tmp_path)
    load = module.window_sums.take()["moe/load"]
    routers = [part for part in module.model.modules() if isinstance(part, Router)]
    for router, layer_load in zip(routers, load, strict=True):
        assert router.selection_bias is not None
        assert torch.equal(router.selection_bias, 0.1 * torch.sign(layer_load.mean() - layer_load))


def test_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    module = build(DENSE)
    module.schedule = ScheduleConfig(warmup_steps=4, horizon_steps=8, final_ratio=0.1)
    rates: list[float] = []
    original = module.on_before_optimizer_step

    def record(optimizer: torch.optim.Optimizer) -> None:
        original(optimizer)
        rates.append(optimizer.param_groups[0]["lr"] / 1e-2)

    module.on_before_optimizer_step = record  # type: ignore[method-assign]
    fit(module, [random_batch(1)] * 9, 1, tmp_path)
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.1)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


def test_an_undeclared_metric_is_an_error(tmp_path: Path) -> None:
    module = build(DENSE)

    def loss(model: MiniMind, batch: TokenBatch) -> Loss:
        result = next_token_loss(model, batch)
        return replace(result, metrics={"acuracy": (result.total, result.weight)})

    module.objective.loss = loss  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"PretrainConfig\.metrics must declare 'acuracy'"):
        fit(module, [random_batch(1)], 1, tmp_path)


def test_the_loss_of_an_moe_model_must_include_the_balance_metrics(tmp_path: Path) -> None:
    """Otherwise the settings that balance the experts would be accepted and ignored."""
    module = build(MOE)
    module.objective.loss = lambda model, batch: replace(next_token_loss(model, batch), metrics={})  # type: ignore
    with pytest.raises(ValueError, match=r"Pretrain\.loss must return the auxiliary term"):
        fit(module, [random_batch(1)], 1, tmp_path)


def test_a_step_without_batches_is_an_error(tmp_path: Path) -> None:
    module = build(DENSE)
    module.objective.enrich = lambda model, batches, reduce: []  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"Pretrain\.enrich must return at least one batch on each rank"):
        fit(module, [random_batch(1)], 1, tmp_path)


def test_validation_does_not_change_the_random_state_of_training(tmp_path: Path) -> None:
    """A measure may draw random numbers, for example to generate text; it draws the same ones in every validation."""
    drawn: list[tuple[float, float, float]] = []

    class Drawing(TextMeasure):
        def measure(self, model: MiniMind, batch: TokenBatch, metrics: Sequence[Metric]) -> None:
            drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random()))
            super().measure(model, batch, metrics)

    measure = Drawing(cast(Any, OneByteTokens(VOCAB)))
    model = build(DENSE).model.train()
    batch = random_batch(2)
    tokens = torch.cat([batch.input_ids, batch.labels[:, -1:]], dim=1)
    held_out = [TokenSequences(tokens, torch.ones(2, 16, dtype=torch.bool))]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    evaluate(model, measure, {"text": held_out})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert model.training
    torch.rand(3)
    evaluate(model, measure, {"text": held_out})
    assert drawn[0] == drawn[1]
