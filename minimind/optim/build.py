"""Builds the optimizer that a configuration describes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from minimind.optim.config import OptimConfig, OptimKind
from minimind.optim.muon import Muon
from minimind.optim.param_groups import param_groups
from minimind.utils.errors import ConfigError
from minimind.utils.user_code import load_class


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], cfg: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer; each group stores its peak learning rate as `peak_lr`, which the schedule scales."""
    groups = param_groups(named_parameters, cfg)
    for group in groups:
        group["peak_lr"] = group["lr"]
    betas = (cfg.betas[0], cfg.betas[1])
    if cfg.kind == OptimKind.adamw:
        return torch.optim.AdamW(groups, betas=betas, eps=cfg.eps, fused=True)
    if cfg.kind == OptimKind.muon:
        return Muon(groups, betas=betas, eps=cfg.eps)
    return _user_optimizer(groups, cfg)


def _user_optimizer(groups: list[dict[str, Any]], cfg: OptimConfig) -> torch.optim.Optimizer:
    """Build an optimizer of the user's class that skips steps with `found_inf`, as fused AdamW does.

    Raises:
        ConfigError: the class does not take the parameter groups and `options`, or is not an optimizer.
    """
    cls = load_class(cfg.kind, "optim.kind")
    try:
        optimizer = cls(groups, **cfg.options)
    except (TypeError, ValueError) as error:
        raise ConfigError([
            f"`optim.kind={cfg.kind}` must take parameter groups and `optim.options` ({cfg.options}), but: {error}."
        ]) from error  # fmt: skip
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError([f"`optim.kind` must name a torch.optim.Optimizer, but is {cfg.kind}."])
    original_step = optimizer.step

    def step(closure: Callable[[], Any] | None = None) -> Any:
        """Wait for `found_inf` on the host; only fused optimizers read it on the device."""
        loss = closure() if closure is not None else None  # scales gradients, sets learning rates and `found_inf`
        if not vars(optimizer).pop("found_inf", False):  # removed, as torch's own raise on it unless they are fused
            original_step()
        return loss

    optimizer.step = step  # type: ignore[method-assign]
    return optimizer
