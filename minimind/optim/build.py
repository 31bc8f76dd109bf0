"""Configuration → optimizer."""

from collections.abc import Iterable

import torch
from torch import nn

from minimind.optim.config import OptimConfig, OptimKind
from minimind.optim.muon import Muon
from minimind.optim.param_groups import param_groups


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer, each group remembering its peak rate as `peak_lr` for the schedule to scale."""
    groups = param_groups(named_parameters, cfg)
    for group in groups:
        group["peak_lr"] = group["lr"]
    betas = (cfg.betas[0], cfg.betas[1])
    if cfg.kind is OptimKind.muon:
        return Muon(groups, betas=betas, eps=cfg.eps)
    return torch.optim.AdamW(groups, betas=betas, eps=cfg.eps, fused=True)
