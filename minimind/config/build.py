"""Builds the data module, callbacks and trainer of a run, after resolving settings that depend on machine or data."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.config.auto import device_request, inherited_settings, resolve_device
from minimind.config.schema import TrainConfig
from minimind.data.datamodule import DataModule
from minimind.data.mixture import Source
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData
from minimind.model.linear import linear
from minimind.objectives.protocol import Objective
from minimind.parallel.ddp import ddp_strategy
from minimind.parallel.layout import Layout
from minimind.runs.stop import StopRequest
from minimind.training.assembly import build_objective
from minimind.training.callbacks.checkpointing import Checkpointing, SafeCheckpointIO
from minimind.training.callbacks.metrics import Metrics
from minimind.training.callbacks.preemption import Preemption, disable_lightning_signals
from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.callbacks.watch import Watch
from minimind.training.parts import RunParts
from minimind.utils.errors import UserError
from minimind.utils.hardware import peak_flops
from minimind.utils.ranks import global_rank

TOKENS_PER_FORWARD_PASS = 16_384  # per micro-batch, unless `trainer.micro_batch` is set


def resolve_auto(cfg: TrainConfig) -> dict[str, Any]:
    """Values of the settings that are `auto` or null; resolved when a run first starts, stored, and used on resume.

    Raises:
        ConfigError: the device does not exist or does not support the precision.
    """
    request = device_request(cfg.trainer)
    per_rank = batch_examples(cfg) // cfg.num_processes
    fitting = max(1, TOKENS_PER_FORWARD_PASS // cfg.data.sequence_length)
    micro_batch = max(divisor for divisor in range(1, min(per_rank, fitting) + 1) if per_rank % divisor == 0)
    return {
        **(inherited_settings(request) or resolve_device(request)),
        "micro_batch": cfg.trainer.micro_batch or micro_batch,
        "world_size": cfg.num_processes,
    }


def stored_or_resolved(cfg: TrainConfig, stored: dict[str, Any]) -> dict[str, Any]:
    """Resolved settings from the run's first start, except those that are now set explicitly.

    With a different number of processes, the settings that depend on it are resolved again.
    """
    now = resolve_auto(cfg)
    explicit = [name for name in now if getattr(cfg.trainer, name, None) not in (None, "auto")]
    per_process = () if stored.get("world_size") == now["world_size"] else ("micro_batch", "num_threads", "world_size")
    return {**now, **{name: value for name, value in stored.items() if name not in (*explicit, *per_process)}}


def steps_of(epochs: float, cfg: TrainConfig, data: PreparedData) -> int:
    """Optimizer steps in `epochs` passes over the only data source."""
    (source,) = data.sources
    objective = build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer)
    return math.ceil(epochs * objective.examples(source, TRAIN).num_examples / batch_examples(cfg))


def batch_examples(cfg: TrainConfig) -> int:
    """Examples per optimizer step, over all ranks."""
    return cfg.trainer.batch_tokens // cfg.data.sequence_length


def layout_of(cfg: TrainConfig, auto: dict[str, Any]) -> Layout:
    """How the ranks share each step, with the rank of this process."""
    return Layout(global_rank(), cfg.num_processes, batch_examples(cfg), auto["micro_batch"])


def with_steps(cfg: TrainConfig, max_steps: int) -> TrainConfig:
    """Set the number of steps; a schedule without its own horizon ends at the last one.

    Raises:
        ConfigError: the warm-up is longer than the schedule.
    """
    horizon = max_steps if cfg.schedule.horizon_steps is None else cfg.schedule.horizon_steps
    return replace(
        cfg,
        trainer=replace(cfg.trainer, max_steps=max_steps, epochs=None),
        schedule=replace(cfg.schedule, horizon_steps=horizon),
    )


def build_data(cfg: TrainConfig, objective: Objective[Any], data: PreparedData, layout: Layout) -> DataModule:
    assert cfg.trainer.max_steps is not None, "resolved by with_steps"
    sources = [Source(source.name, source.weight, objective.examples(source, TRAIN)) for source in data.sources]
    held_out = {source.name: objective.examples(source, VALIDATION) for source in data.sources}
    for split, examples in [("training", s.examples) for s in sources] + [("held-out", e) for e in held_out.values()]:
        if not examples.num_examples:
            raise UserError(f"The {split} data must contain at least one example, but has none; add more text.")
    return DataModule(
        sources,
        held_out,
        seed=cfg.seed,
        batch_examples=layout.batch_examples,
        micro_batch=layout.micro_batch,
        num_steps=cfg.trainer.max_steps,
        num_workers=cfg.data.num_workers,
        rank=layout.data_rank,
        world_size=layout.data_size,
    )


def build_callbacks(
    cfg: TrainConfig, parts: RunParts, auto: dict[str, Any], chosen: list[pl.Callback], stop: StopRequest
) -> tuple[Metrics, list[pl.Callback]]:
    """The callbacks that every run needs and those of the `callbacks` group, in the order that they depend on."""
    peak = peak_flops(torch.device(auto["accelerator"]), auto["precision"], linear)
    metrics = Metrics(
        parts,
        cfg.trainer,
        flops_per_token=cfg.model.flops_per_token(cfg.data.sequence_length),
        peak_flops=None if peak is None else peak * cfg.num_processes,
        batch_examples=batch_examples(cfg),
    )
    checkpointing = Checkpointing(parts, cfg.trainer, metrics)
    watch = [Watch(cfg.logger["watch"])] if cfg.logger.get("watch") else []
    for callback in [*watch, *chosen]:
        if isinstance(callback, RunCallback):  # not Lightning's own
            callback.attach(parts)
    minutes = cfg.run.max_minutes
    deadline = None if minutes is None else stop.since + 60 * minutes
    return metrics, [metrics, *watch, *chosen, checkpointing, Preemption(checkpointing, stop, deadline)]


def build_trainer(
    cfg: TrainConfig, auto: dict[str, Any], callbacks: list[pl.Callback], loggers: list[Any]
) -> pl.Trainer:
    """Build the trainer; for Lightning, an optimizer step is a single batch, however many micro-batches it has."""
    assert cfg.trainer.max_steps is not None, "resolved by with_steps"
    trainer = pl.Trainer(
        accelerator=auto["accelerator"],
        devices=cfg.trainer.devices,
        num_nodes=cfg.parallel.num_nodes,
        strategy=ddp_strategy() if cfg.num_processes > 1 else "auto",
        precision=auto["precision"],
        max_epochs=-1,
        max_steps=cfg.trainer.max_steps,
        val_check_interval=cfg.trainer.validate_every_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        deterministic=cfg.trainer.deterministic,
        callbacks=callbacks,
        logger=loggers,
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,  # `Checkpointing` saves instead
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=0,  # nothing goes through Lightning's own logging
        use_distributed_sampler=False,  # examples are already assigned to ranks
    )
    disable_lightning_signals(trainer)
    # The module applies autocast to forward passes only; Lightning would apply it to the whole step.
    setattr(trainer.precision_plugin, "train_step_context", nullcontext)  # noqa: B010 for mypy, it is a method
    return trainer
