"""The same data gives the same metrics and the same update, however it is split over ranks and micro-batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pretraining import pretraining
from torch import Tensor
from torch.distributed import GradBucket, distributed_c10d
from torch.futures import Future
from torch.utils.data import DataLoader

from minimind.cli.processes import quiet_libraries
from minimind.data.examples import TokenBatch, TokenSequences
from minimind.data.loader import SequentialLoader, ValidationLoader
from minimind.model.config import IGNORED, ModelConfig
from minimind.model.moe import Router
from minimind.model.transformer import MiniMind
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.parallel import ddp
from minimind.parallel.ddp import ddp_strategy
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.training.callbacks.metrics import Metrics
from minimind.training.callbacks.preemption import disable_lightning_signals
from minimind.training.config import TrainerConfig
from minimind.training.module import TrainingModule
from minimind.training.parts import Best, MetricsWriter, RunParts
from minimind.utils.ranks import global_rank, world_size

EXAMPLES, LENGTH, VOCAB = 8, 16, 61
DENSE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
MOE = {**DENSE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
RunRanks = Callable[..., list[Any]]
Result = dict[str, Any]
LOSS_FREE = {**MOE, "balance_loss": "loss_free", "router_bias_update_rate": 0.1}
SAME = ("train/loss", "train/grad_norm", "train/real_token_fraction", "val/loss", "val/bits_per_byte",
        "moe/balance_loss", "moe/max_load", "moe/dead_experts")  # fmt: skip


def global_batches(steps: int) -> list[TokenBatch]:
    """Batches of sequences with very different numbers of real tokens, so that a mean of means would differ."""
    torch.manual_seed(7)
    batches = []
    for _ in range(steps):
        tokens = torch.randint(VOCAB, (EXAMPLES, LENGTH + 1))
        labels = tokens[:, 1:].clone()
        labels[0, 2:] = IGNORED
        labels[5:, -6:] = IGNORED
        batches.append(TokenBatch(tokens[:, :-1], labels))
    return batches


class HeldOut:
    """A number of held-out sequences that is not divisible by two ranks."""

    num_examples = EXAMPLES - 1

    def read(self, numbers: NDArray[np.int64]) -> TokenSequences:
        (batch,) = global_batches(1)
        tokens = torch.cat([batch.input_ids, batch.labels[:, -1:].where(batch.labels[:, -1:] != IGNORED, 0)], dim=1)
        return TokenSequences(tokens[numbers], (batch.labels != IGNORED)[numbers])


class Watch(pl.Callback):
    """Counts gradient all-reduces, and keeps the first step's gradient as the optimizer receives it."""

    def __init__(self) -> None:
        self.reductions = 0
        self.gradient: dict[str, Tensor] = {}
        self.sum_gradients, ddp.sum_gradients = ddp.sum_gradients, self.reduce

    def reduce(self, state: None, bucket: GradBucket) -> Future[Tensor]:
        self.reductions += 1
        return self.sum_gradients(state, bucket)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == 1 and not self.gradient:
            self.gradient = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def train(config: dict[str, Any], steps: int, micro_batch: int, folder: Path) -> dict[str, Any]:
    """One rank's rows of metrics.jsonl, gradient of the first step, and weights after the last."""
    quiet_libraries()
    vars(distributed_c10d)["_unpickler"] = None  # neither minimind nor Lightning may unpickle
    torch.manual_seed(0)
    module = TrainingModule(
        MiniMind(ModelConfig(**config)), pretraining(VOCAB), optim=OptimConfig(lr=1e-2, eps=1e-3),
        schedule=ScheduleConfig(horizon_steps=1000, final_ratio=1.0), gradient_clip=1.0,
    )  # fmt: skip
    ranks, rank = world_size(), global_rank()
    batches = [
        [TokenBatch(*(part[first : first + micro_batch] for part in batch[:2]))
         for first in range(rank * micro_batch, EXAMPLES, ranks * micro_batch)]
        for batch in global_batches(steps)
    ]  # fmt: skip
    held_out = SequentialLoader(HeldOut(), batch=1, rank=rank, world_size=ranks)
    cfg = TrainerConfig(max_steps=steps, batch_tokens=EXAMPLES * LENGTH, log_every_steps=1, validate_every_steps=steps)
    run = RunFolder(folder)
    parts = RunParts(run, MetricsWriter(run), Best(("val/loss", "min")), sampler=cast(Any, None))
    metrics = Metrics(parts, cfg, flops_per_token=1.0, peak_flops=None, batch_examples=EXAMPLES)
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy=ddp_strategy() if ranks > 1 else "auto", max_steps=steps,
        max_epochs=-1, val_check_interval=steps,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, callbacks=[metrics, watch], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    disable_lightning_signals(trainer)
    trainer.fit(module, DataLoader(batches, batch_size=None), ValidationLoader({"text": held_out}))  # type: ignore[arg-type]
    return {
        "rows": read_rows(folder / "metrics.jsonl"),
        "gradient": watch.gradient,
        "reductions": watch.reductions,
        "weights": {name: p.detach().clone() for name, p in module.model.named_parameters()},
        "bias": [part.selection_bias for part in module.model.modules() if isinstance(part, Router)],
    }


@pytest.fixture(scope="module")
def single(run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Results of each model in one process, without micro-batches."""
    folder = tmp_path_factory.mktemp("single")
    cases = {"dense": (DENSE, 20), "moe": (MOE, 1), "loss_free": (LOSS_FREE, 2)}
    return {name: run_ranks(1, train, folder / name, config, steps, EXAMPLES, folder / name)[0]
            for name, (config, steps) in cases.items()}  # fmt: skip


def assert_same_step(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, expected = other["rows"][0], one["rows"][0]
    assert first["tokens"] == expected["tokens"]
    for name in set(SAME) & set(expected):
        assert first[name] == pytest.approx(expected[name], rel=1e-5), name
    for name, gradient in one["gradient"].items():
        torch.testing.assert_close(other["gradient"][name], gradient, rtol=1e-4, atol=1e-7, msg=name)
        distance = torch.linalg.vector_norm(other["gradient"][name] - gradient)
        assert distance <= 1e-5 * torch.linalg.vector_norm(gradient) + 1e-9, name


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 2), (2, 4), (2, 1), (4, 2), (4, 1)])
def test_dense_step_and_curve(
    ranks: int, micro_batch: int, run_ranks: RunRanks, single: Result, tmp_path: Path
) -> None:
    results = run_ranks(ranks, train, tmp_path, DENSE, 20, micro_batch, tmp_path)
    assert_same_step(single["dense"], results[0])
    curve, expected = ([row["train/loss"] for row in run["rows"]] for run in (results[0], single["dense"]))
    assert len(expected) == 20
    assert curve == pytest.approx(expected, rel=1e-4)
    assert results[0]["rows"][-1]["val/loss"] == pytest.approx(single["dense"]["rows"][-1]["val/loss"], rel=1e-4)
    for result in results[1:]:
        for name, weight in results[0]["weights"].items():
            assert torch.equal(result["weights"][name], weight), name


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 2), (2, 2), (4, 1)])
def test_moe_step(ranks: int, micro_batch: int, run_ranks: RunRanks, single: Result, tmp_path: Path) -> None:
    assert_same_step(single["moe"], run_ranks(ranks, train, tmp_path, MOE, 1, micro_batch, tmp_path)[0])


def test_loss_free_bias_follows_the_load_of_all_ranks(run_ranks: RunRanks, single: Result, tmp_path: Path) -> None:
    for result in run_ranks(2, train, tmp_path, LOSS_FREE, 2, 2, tmp_path):
        for bias, expected in zip(result["bias"], single["loss_free"]["bias"], strict=True):
            assert torch.equal(bias, expected)


def test_gradients_are_reduced_once_per_step(run_ranks: RunRanks, tmp_path: Path) -> None:
    """Four micro-batches per step need as many all-reduces as one."""
    counts = {
        micro_batch: run_ranks(
            2, train, tmp_path / str(micro_batch), DENSE, 2, micro_batch, tmp_path / str(micro_batch)
        )
        for micro_batch in (4, 1)
    }
    one, four = (counts[m][0]["reductions"] for m in (4, 1))
    assert one >= 2
    assert four == one
