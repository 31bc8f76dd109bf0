"""Configuration → objects."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.config.schema import TrainConfig
from minimind.data.datamodule import DataModule
from minimind.data.packing import training_packing
from minimind.data.prepare import TRAIN, PreparedData
from minimind.evaluation.text_loss import padded_token_bytes
from minimind.model.linear import linear
from minimind.model.transformer import MiniMind
from minimind.parallel.ddp import ddp_strategy
from minimind.runs.folder import RunFolder
from minimind.runs.stop import StopRequest
from minimind.tokenizer.bpe import BPE
from minimind.training.callbacks.checkpointing import Checkpointing
from minimind.training.callbacks.metrics import Metrics
from minimind.training.callbacks.preemption import Preemption, without_lightnings_signals
from minimind.training.callbacks.watch import Watch
from minimind.training.checkpoint_io import SafeCheckpointIO
from minimind.training.module import TrainingModule
from minimind.utils.errors import ConfigError
from minimind.utils.hardware import peak_flops, pick_device, pick_precision
from minimind.utils.seeding import seed_everything

TOKENS_A_FORWARD_PASS = 16_384  # of one micro-batch, unless it is set


def resolve_auto(cfg: TrainConfig) -> dict[str, Any]:
    """What `auto` and null mean on this machine; found at a run's first start, stored, and used on resume.

    Raises:
        ConfigError: the device cannot do what is asked.
    """
    device = pick_device(cfg.trainer.accelerator)
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(device.type):
        raise ConfigError([
            f"`trainer.accelerator` must name a device that is here, but {device.type} is not; use cpu or auto."
        ])  # fmt: skip
    if device.type == "cpu" and cfg.trainer.precision == "16-mixed":
        raise ConfigError(["`trainer.precision` must not be 16-mixed on a CPU (torch computes bf16); use bf16-mixed."])
    world_size = cfg.trainer.devices * cfg.parallel.num_nodes
    rows = cfg.trainer.batch_tokens // cfg.data.sequence_length // world_size
    fitting = max(1, TOKENS_A_FORWARD_PASS // cfg.data.sequence_length)
    micro_batch = max(divisor for divisor in range(1, min(rows, fitting) + 1) if rows % divisor == 0)
    return {
        "accelerator": device.type,
        "precision": pick_precision(cfg.trainer.precision, device),
        "micro_batch": cfg.trainer.micro_batch or micro_batch,
        "num_threads": cfg.trainer.num_threads or max(1, torch.get_num_threads() // cfg.trainer.devices),
        "world_size": world_size,
    }


def stored_or_resolved(cfg: TrainConfig, stored: dict[str, Any]) -> dict[str, Any]:
    """What `auto` meant at the run's first start; what is said now holds, and shares are found anew for another number
    of processes.
    """
    now = resolve_auto(cfg)
    said = [name for name in now if getattr(cfg.trainer, name, None) not in (None, "auto")]
    shares = () if stored.get("world_size") == now["world_size"] else ("micro_batch", "num_threads", "world_size")
    return {**now, **{name: value for name, value in stored.items() if name not in (*said, *shares)}}


def steps_of(epochs: float, cfg: TrainConfig, data: PreparedData) -> int:
    """Optimizer steps in which each row of the one source has been seen so often."""
    (stream,) = data.streams(TRAIN)
    batch_rows = cfg.trainer.batch_tokens // cfg.data.sequence_length
    return math.ceil(epochs * training_packing(stream, cfg.data).num_rows / batch_rows)


def with_steps(cfg: TrainConfig, max_steps: int) -> TrainConfig:
    """The same where the steps are known: a schedule without a horizon of its own ends with them.

    Raises:
        ConfigError: the warm-up is longer.
    """
    horizon = max_steps if cfg.schedule.horizon_steps is None else cfg.schedule.horizon_steps
    return replace(
        cfg,
        trainer=replace(cfg.trainer, max_steps=max_steps, epochs=None),
        schedule=replace(cfg.schedule, horizon_steps=horizon),
    )


def build_module(cfg: TrainConfig, tokenizer: BPE, sources: Sequence[str] = ()) -> TrainingModule:
    """`sources`: names of those that are validated on, in their order."""
    seed_everything(cfg.seed, "init")
    model = MiniMind(cfg.model)
    return TrainingModule(
        model,
        objective=cfg.objective.kind,
        optim=cfg.optim,
        schedule=cfg.schedule,
        gradient_clip=cfg.trainer.gradient_clip,
        token_bytes=padded_token_bytes(tokenizer, cfg.model.vocab_size),
        sources=sources,
    )


def build_data(cfg: TrainConfig, data: PreparedData, micro_batch: int) -> DataModule:
    assert cfg.trainer.max_steps is not None, "resolved by with_steps"
    return DataModule(
        cfg.data,
        data,
        seed=cfg.seed,
        batch_tokens=cfg.trainer.batch_tokens,
        micro_batch=micro_batch,
        max_steps=cfg.trainer.max_steps,
    )


def build_callbacks(
    cfg: TrainConfig, run: RunFolder, auto: dict[str, Any], chosen: list[pl.Callback], stop: StopRequest
) -> list[pl.Callback]:
    """Ours that every run needs, in the order they depend on each other, with those of the `callbacks` group."""
    peak = peak_flops(torch.device(auto["accelerator"]), auto["precision"], linear)
    metrics = Metrics(
        run,
        cfg.trainer,
        flops_per_token=cfg.model.flops_per_token(cfg.data.sequence_length),
        peak_flops=None if peak is None else peak * cfg.trainer.devices * cfg.parallel.num_nodes,
        row_tokens=cfg.trainer.batch_tokens,
        batch_rows=cfg.trainer.batch_tokens // cfg.data.sequence_length,
    )
    checkpointing = Checkpointing(run, cfg.trainer, metrics)
    watch = [Watch(run, cfg.logger["watch"])] if cfg.logger.get("watch") else []
    minutes = cfg.run.max_minutes
    deadline = None if minutes is None else stop.since + 60 * minutes
    return [metrics, *watch, *chosen, checkpointing, Preemption(checkpointing, stop, deadline)]


def build_trainer(
    cfg: TrainConfig, auto: dict[str, Any], callbacks: list[pl.Callback], loggers: list[Any]
) -> pl.Trainer:
    world_size = cfg.trainer.devices * cfg.parallel.num_nodes
    accumulation = cfg.trainer.batch_tokens // (cfg.data.sequence_length * auto["micro_batch"] * world_size)
    assert cfg.trainer.max_steps is not None, "resolved by with_steps"
    trainer = pl.Trainer(
        accelerator=auto["accelerator"],
        devices=cfg.trainer.devices,
        num_nodes=cfg.parallel.num_nodes,
        strategy=ddp_strategy() if world_size > 1 else "auto",
        precision=auto["precision"],
        max_epochs=-1,
        max_steps=cfg.trainer.max_steps,
        accumulate_grad_batches=accumulation,
        val_check_interval=cfg.trainer.validate_every_steps * accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        deterministic=cfg.trainer.deterministic,
        callbacks=callbacks,
        logger=loggers,
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,  # ours are callbacks
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=0,  # nothing goes through Lightning's own logging
        use_distributed_sampler=False,  # Lightning would shuffle; our order is global
    )
    without_lightnings_signals(trainer)
    return trainer
