"""Builds the objective and the training module, for all entry points."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from minimind.data.config import DataConfig
from minimind.model.config import ModelConfig
from minimind.model.transformer import MiniMind
from minimind.objectives.config import ObjectiveConfig
from minimind.objectives.protocol import Objective
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.tokenizer.bpe import BPE
from minimind.training.checkpoint import load_model, load_weights
from minimind.training.config import TrainerConfig
from minimind.training.module import TrainingModule
from minimind.utils.seeding import seed_everything


class Settings(Protocol):
    """The parts of a run's configuration that determine how its model is built and trained."""

    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    seed: int


def assemble(
    cfg: Settings, objective: Objective[Any], *, weights: Path | None = None, frozen: Mapping[str, Path] | None = None
) -> TrainingModule:
    """Build the training module. Weights are initialised on the CPU, so they do not depend on device or world size.

    Args:
        weights: the checkpoint to load the model's weights from.
        frozen: a checkpoint for each frozen model of the objective.

    Raises:
        UserError: a checkpoint is damaged or does not fit its model.
    """
    seed_everything(cfg.seed, "init")
    model = MiniMind(cfg.model)
    if weights is not None:
        load_weights(model, weights)
    if cfg.trainer.compile:
        model.compile()
    objective.frozen = {name: _load_frozen(checkpoint) for name, checkpoint in (frozen or {}).items()}
    return TrainingModule(
        model, objective, optim=cfg.optim, schedule=cfg.schedule, gradient_clip=cfg.trainer.gradient_clip
    )


def build_objective(cfg: ObjectiveConfig, *, data: DataConfig, tokenizer: BPE) -> Objective[Any]:
    """Build the objective without its frozen models, which `assemble` loads."""
    module, _, name = cfg.implementation.partition(":")
    implementation: type[Objective[Any]] = getattr(importlib.import_module(module), name)
    return implementation(cfg, data=data, tokenizer=tokenizer)


def _load_frozen(checkpoint: Path) -> MiniMind:
    model, _ = load_model(checkpoint, torch.device("cpu"))
    return model.requires_grad_(False)
