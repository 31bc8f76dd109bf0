"""Parameter groups: which parameters share a learning rate, weight decay and update rule."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from minimind.optim.config import OptimConfig, OptimKind


def param_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[dict[str, Any]]:
    """Group parameters: matrices of the blocks (the only ones to decay), token embeddings, and others.

    The group `gates_above_ups` has the experts' `gate_up_proj`: two matrices, one above the other, per expert.
    """
    matrices: dict[str, Any] = {"lr": cfg.lr * cfg.matrix_lr_ratio, "weight_decay": cfg.weight_decay}
    if cfg.kind == OptimKind.muon:
        matrices["momentum"] = cfg.momentum
    settings: dict[str, dict[str, Any]] = {
        "matrices": matrices,
        "gates_above_ups": {**matrices, "row_blocks": 2},
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
    # Positions are not with the token embeddings: every position gets a gradient in each step, most tokens do not.
    if parameter.ndim < 2 or "lm_head" in name or "embed_positions" in name:
        return "others"
    if name.endswith("gate_up_proj"):  # of stacked experts; without a gate, as many rows as `down_proj` has columns
        down = parameters[name.replace("gate_up_proj", "down_proj")]
        return "gates_above_ups" if parameter.shape[-2] == 2 * down.shape[-1] else "matrices"
    return "matrices"
