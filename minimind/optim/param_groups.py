"""Which parameters share a learning rate, a weight decay and a way to be updated."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from minimind.optim.config import OptimConfig, OptimKind


def param_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[dict[str, Any]]:
    """Matrices decay; embeddings have a rate of their own; an untied head, norms and biases do not decay."""
    of_matrices: dict[str, Any] = {"lr": cfg.lr * cfg.matrix_lr_ratio, "weight_decay": cfg.weight_decay}
    if cfg.kind == OptimKind.muon:
        of_matrices["momentum"] = cfg.momentum
    settings: dict[str, dict[str, Any]] = {
        "matrices": of_matrices,
        "gates_above_ups": {**of_matrices, "row_blocks": 2},
        "embeddings": {"lr": cfg.lr * cfg.embedding_lr_ratio, "weight_decay": 0.0},
        "others": {"lr": cfg.lr, "weight_decay": 0.0},
    }
    parameters = dict(named_parameters)
    members: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in settings}
    for name, parameter in parameters.items():
        members[_group_of(name, parameters)].append((name, parameter))
    return [{"group": group, "params": members[group], **settings[group]} for group in settings if members[group]]


def _group_of(name: str, parameters: dict[str, nn.Parameter]) -> str:
    parameter = parameters[name]
    if "embed_tokens" in name:
        return "embeddings"
    if parameter.ndim < 2 or "lm_head" in name or "embed_positions" in name:  # positions occur in every window
        return "others"
    if name.endswith("gate_up_proj"):  # of a stack of experts; ungated ones have as many rows as `down_proj` columns
        down = parameters[name.replace("gate_up_proj", "down_proj")]
        return "gates_above_ups" if parameter.shape[-2] == 2 * down.shape[-1] else "matrices"
    return "matrices"
