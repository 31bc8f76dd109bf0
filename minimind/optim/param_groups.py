"""Which parameters share a learning rate and a weight decay."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from minimind.optim.config import OptimConfig


def param_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> list[dict[str, Any]]:
    """Matrices decay; embeddings have a rate of their own; an untied head, norms and biases do not decay."""
    matrices: list[tuple[str, nn.Parameter]] = []
    embeddings: list[tuple[str, nn.Parameter]] = []
    others: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named_parameters:
        if "embed" in name:
            embeddings.append((name, parameter))
        elif parameter.ndim >= 2 and "lm_head" not in name:
            matrices.append((name, parameter))
        else:
            others.append((name, parameter))
    groups = [
        {"group": "matrices", "params": matrices, "lr": cfg.lr, "weight_decay": cfg.weight_decay},
        {"group": "embeddings", "params": embeddings, "lr": cfg.lr * cfg.embedding_lr_ratio, "weight_decay": 0.0},
        {"group": "others", "params": others, "lr": cfg.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
