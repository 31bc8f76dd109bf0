"""What each logger, and watching gradients, costs per step of the default run, which logs every tenth step.

    python benchmarks/loggers.py [--rows 300] [--steps 10]

Measures the time that the training process spends per row. W&B's mirror runs in its own process, whose CPU time per
row is reported separately: as the slope between two numbers of rows, which excludes about two seconds of startup.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from minimind.config.checks import to_config
from minimind.config.schema import register
from minimind.data.examples import TokenBatch
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.optim.build import build_optimizer
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_row
from minimind.tracking.config import WandbSettings
from minimind.tracking.csv_file import CsvFile
from minimind.tracking.tensorboard import TensorBoard
from minimind.tracking.wandb import WandbMirror
from minimind.training.callbacks.memory import Memory
from minimind.training.callbacks.watch import Watch
from minimind.training.parts import MetricsWriter
from minimind.utils.hardware import autocast, pick_precision
from minimind.utils.paths import conf_dir

STEPS_PER_ROW = 10
NAMES = ("loss", "grad_norm", "lr", "tokens_per_second", "real_token_fraction", "data_wait_fraction",
         "checkpoint_stall_s", "mfu")  # fmt: skip


def row(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": 2048 * step, "elapsed_s": 0.1 * step, **{f"train/{n}": 1 / step for n in NAMES}}


def make_run(folder: str, config: Any) -> RunFolder:
    run = RunFolder(Path(folder))
    OmegaConf.save(config, run.config)
    run.update_status(state="running", step=0)
    return run


def median_ms(action: Callable[[int], object], rows: int) -> float:
    times = []
    for number in range(1, rows + 1):
        start = time.perf_counter()
        action(number * STEPS_PER_ROW)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def row_ms(make: Callable[[RunFolder], Any], config: Any, rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        logger = make(make_run(folder, config))
        cost = median_ms(lambda step: logger.log_metrics(row(step), step), rows)
        logger.finish(0)
    return cost


def mirror_cpu_s(config: Any, rows: int) -> float:
    """CPU seconds of W&B's mirror and service for this many rows."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(folder, config)
        for number in range(1, rows + 1):
            append_row(run.metrics, row(number * STEPS_PER_ROW))
        mirror = WandbMirror(run, 0, **vars(WandbSettings()))
        mirror.finish(0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def default_step(cfg: Any, steps: int) -> tuple[float, MiniMind]:
    """Milliseconds per training step of the default run's model and batch size, and the model."""
    model = MiniMind(cfg.model)
    optimizer = build_optimizer(model.named_parameters(), cfg.optim)
    device = torch.device("cpu")
    precision = pick_precision("auto", device)
    num_sequences = cfg.trainer.batch_tokens // cfg.data.sequence_length
    ids = torch.randint(cfg.model.vocab_size, (num_sequences, cfg.data.sequence_length))
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        with autocast(precision, device):
            loss = next_token_loss(model, TokenBatch(ids, ids))
        (loss.total / loss.num_tokens).backward()
        optimizer.step()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:]), model


def callback_ms(callback: Any, model: MiniMind, config: Any, rows: int) -> float:
    """Milliseconds per row of a callback that adds metrics to it."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(folder, config)
        callback.attach(SimpleNamespace(run=run, writer=MetricsWriter(run)))
        trainer = SimpleNamespace(is_global_zero=True, loggers=[], global_step=1)
        module = SimpleNamespace(model=model, device=torch.device("cpu"))
        return median_ms(lambda step: callback.metrics(trainer, module, {}), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=["run.name=x", "paths.root=/nowhere"])
    cfg = to_config(config)
    step_ms, model = default_step(cfg, arguments.steps)
    rows = arguments.rows
    costs = {
        "metrics.jsonl": file_ms(rows),
        "csv": row_ms(lambda run: CsvFile(run, 0), config, rows),
        "tensorboard": row_ms(lambda run: TensorBoard(run, 0), config, rows),
        "wandb": row_ms(lambda run: WandbMirror(run, 0, **vars(WandbSettings())), config, rows),
        "memory": callback_ms(Memory(), model, config, rows),
        "watch=gradients": callback_ms(Watch("gradients"), model, config, max(1, rows // 10)),
        "watch=all": callback_ms(Watch("all"), model, config, max(1, rows // 10)),
    }
    mirror_ms = 1000 * (mirror_cpu_s(config, 5 * rows) - mirror_cpu_s(config, rows)) / (4 * rows)
    print(f"a step of the default run: {step_ms:.1f} ms")
    for name, cost in costs.items():
        print(f"{name:16} {cost:8.3f} ms per row   {cost / STEPS_PER_ROW / step_ms:8.3%} of a step")
    print(f"{'wandb, mirror':16} {mirror_ms:8.3f} ms per row   {mirror_ms / STEPS_PER_ROW / step_ms:8.3%} of a step")
    results = {name: {"row_ms": round(c, 4), "of_a_step": c / STEPS_PER_ROW / step_ms} for name, c in costs.items()}
    print(json.dumps({"step_ms": round(step_ms, 2), "figures": results, "mirror_cpu_ms_a_row": round(mirror_ms, 4)}))


def file_ms(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return median_ms(lambda step: append_row(Path(folder) / "metrics.jsonl", row(step)), rows)


if __name__ == "__main__":
    main()
