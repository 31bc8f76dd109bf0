"""Overhead per step of our training loop, compared with Lightning's barebones Trainer and a plain loop.

    python benchmarks/trainer.py [--rounds 25] [--steps 400]

All three are interleaved and do the same work on the same tiny model: forward, backward, clipping by norm, fused AdamW.
Ours has everything that a run has by default: logging, the progress line, metrics, the schedule, checkpoint and signal
callbacks. Overhead is in milliseconds per step above the plain loop.
"""

import argparse
import contextlib
import io
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from spread import quartiles
from torch import Tensor, nn

from minimind.config.build import build_callbacks, build_trainer
from minimind.config.schema import TrainConfig
from minimind.data.config import StdlibConfig
from minimind.data.examples import TokenBatch
from minimind.data.loader import ValidationLoader
from minimind.model.config import ModelConfig
from minimind.model.transformer import Output
from minimind.objectives.config import PretrainConfig
from minimind.objectives.pretrain import Pretrain, next_token_loss
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.runs.folder import RunFolder
from minimind.runs.stop import StopRequest
from minimind.training.callbacks.progress import Progress
from minimind.training.config import TrainerConfig
from minimind.training.module import TrainingModule
from minimind.training.parts import Best, MetricsWriter, RunParts

LENGTH = 8
VOCAB = 32
BATCH = TokenBatch(torch.randint(VOCAB, (1, LENGTH)), torch.randint(VOCAB, (1, LENGTH)))


class Tiny(nn.Module):
    """A minimal language model, so that the loop itself dominates the time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, 8)
        self.lm_head = nn.Linear(8, VOCAB)
        self.config = ModelConfig(vocab_size=VOCAB)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def forward(self, input_ids: Tensor, **_: None) -> Output:
        return Output(self.lm_head(self.embed_tokens(input_ids)), [])


class Batches:
    """A sized iterable that repeats the same batch (or step) at no cost."""

    def __init__(self, number: int, batch: object = BATCH) -> None:
        self.number = number
        self.batch = batch

    def __len__(self) -> int:
        return self.number

    def __iter__(self):
        return iter([self.batch] * self.number)


class PlainModule(pl.LightningModule):
    """A minimal LightningModule with only a training step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Tiny()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> torch.Tensor:
        loss = next_token_loss(self.model, batch)
        return loss.total / loss.num_tokens

    def configure_gradient_clipping(self, optimizer, *_, **__) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), fused=True)


def plain_loop(steps: int) -> None:
    module = PlainModule()
    optimizer = module.configure_optimizers()
    for batch in Batches(steps):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()


def barebones(steps: int) -> None:
    trainer = pl.Trainer(accelerator="cpu", barebones=True, max_steps=steps, max_epochs=-1)
    trainer.fit(PlainModule(), Batches(steps))


def ours(steps: int) -> None:
    """A run with the callbacks, module and trainer of the default configuration."""
    cfg = TrainConfig(
        data=StdlibConfig(sequence_length=LENGTH),
        trainer=TrainerConfig(
            max_steps=steps,
            batch_tokens=LENGTH,
            log_every_steps=10,
            validate_every_steps=10 * steps,
            checkpoint_every_steps=10 * steps,
        ),
    )
    auto = {"accelerator": "cpu", "precision": "32-true", "micro_batch": 1, "num_threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        parts = RunParts(run, MetricsWriter(run), Best(("val/loss", "min")), sampler=None)
        _, callbacks = build_callbacks(cfg, parts, auto, [Progress()], StopRequest())
        trainer = build_trainer(cfg, auto, callbacks, [])
        objective = Pretrain(PretrainConfig(), data=cfg.data, tokenizer=None)
        module = TrainingModule(
            Tiny(), objective, optim=OptimConfig(), schedule=ScheduleConfig(horizon_steps=steps), gradient_clip=1.0
        )
        trainer.fit(module, Batches(steps, [BATCH]), ValidationLoader({}))


LOOPS = {"plain": plain_loop, "barebones": barebones, "ours": ours}


def milliseconds_per_step(name: str, steps: int) -> float:
    """The slope between two numbers of steps, which excludes the fixed cost of a fit."""
    times = []
    for number in (steps // 4, steps):
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            LOOPS[name](number)
        times.append(time.perf_counter() - start)
    return 1000 * (times[1] - times[0]) / (steps - steps // 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in LOOPS:
        milliseconds_per_step(name, 40)  # warm-up
    rounds = []
    for number in range(arguments.rounds):
        order = list(LOOPS) if number % 2 == 0 else list(reversed(LOOPS))
        rounds.append({name: milliseconds_per_step(name, arguments.steps) for name in order})
    results: dict[str, list[float]] = {}
    for name in LOOPS:
        results[f"{name}_ms"] = quartiles([r[name] for r in rounds])
    overheads = {name: [r[name] - r["plain"] for r in rounds] for name in ("ours", "barebones")}
    for name, values in overheads.items():
        results[f"{name}_overhead_ms"] = quartiles(values)
    ratio = statistics.median(overheads["ours"]) / statistics.median(overheads["barebones"])
    for name, (low, median, high) in results.items():
        print(f"{name:22} median {median:6.3f}   quartiles {low:6.3f} … {high:6.3f}")
    print(f"overhead of ours ÷ barebones (of the medians): {ratio:.2f}")
    machine = {"torch": torch.__version__, "lightning": pl.__version__, "machine": platform.machine()}
    print(json.dumps({**results, "overhead_ratio": round(ratio, 3), **machine}))


if __name__ == "__main__":
    main()
