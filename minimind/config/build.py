"""Configuration → objects."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.config.auto import asked_by, handed_down, of_this_machine
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

TOKENS_A_FORWARD_PASS = 16_384  # of one micro-batch, unless it is set


def resolve_auto(cfg: TrainConfig) -> dict[str, Any]:
    """What `auto` and null mean here; found at a run's first start, stored, and used on resume.

    Raises:
        ConfigError: the device cannot do what is asked.
    """
    asked = asked_by(cfg.trainer)
    rows = batch_examples(cfg) // cfg.num_processes
    fitting = max(1, TOKENS_A_FORWARD_PASS // cfg.data.sequence_length)
    micro_batch = max(divisor for divisor in range(1, min(rows, fitting) + 1) if rows % divisor == 0)
    return {
        **(handed_down(asked) or of_this_machine(asked)),
        "micro_batch": cfg.trainer.micro_batch or micro_batch,
        "world_size": cfg.num_processes,
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
    """Optimizer steps in which each example of the one source has been seen so often."""
    (source,) = data.sources
    objective = build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer)
    return math.ceil(epochs * objective.examples(source, TRAIN).num_examples / batch_examples(cfg))


def batch_examples(cfg: TrainConfig) -> int:
    """Of one optimizer step, over all ranks."""
    return cfg.trainer.batch_tokens // cfg.data.sequence_length


def layout_of(cfg: TrainConfig, auto: dict[str, Any]) -> Layout:
    """How this process and the others share the work."""
    return Layout(global_rank(), cfg.num_processes, batch_examples(cfg), auto["micro_batch"])


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


def build_data(cfg: TrainConfig, objective: Objective[Any], data: PreparedData, layout: Layout) -> DataModule:
    assert cfg.trainer.max_steps is not None, "resolved by with_steps"
    sources = [Source(source.name, source.weight, objective.examples(source, TRAIN)) for source in data.sources]
    held_out = {source.name: objective.examples(source, VALIDATION) for source in data.sources}
    for split, examples in [("training", s.examples) for s in sources] + [("held-out", e) for e in held_out.values()]:
        if not examples.num_examples:
            raise UserError(f"The {split} data must give an example or more, but give none; name more text.")
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
    """Ours that every run needs, in the order they depend on each other, with those of the `callbacks` group."""
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
        if isinstance(callback, RunCallback):  # Lightning's own do without
            callback.attach(parts)
    minutes = cfg.run.max_minutes
    deadline = None if minutes is None else stop.since + 60 * minutes
    return metrics, [metrics, *watch, *chosen, checkpointing, Preemption(checkpointing, stop, deadline)]


def build_trainer(
    cfg: TrainConfig, auto: dict[str, Any], callbacks: list[pl.Callback], loggers: list[Any]
) -> pl.Trainer:
    """A step is one batch to Lightning, whatever it is cut into."""
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
        enable_checkpointing=False,  # ours are callbacks
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=0,  # nothing goes through Lightning's own logging
        use_distributed_sampler=False,  # Lightning would shuffle; our order is global
    )
    disable_lightning_signals(trainer)
    # the module says what runs in lower precision: within a step the backward passes must not
    setattr(trainer.precision_plugin, "train_step_context", nullcontext)  # noqa: B010 mypy takes it for a method
    return trainer
