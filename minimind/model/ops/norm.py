"""RMSNorm with fewer passes over its input than the formula; the values are bitwise equal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.ops.choice import eager_on_cpu

FEW_VALUES = 2**10  # up to this size, as in decoding, calling an autograd function costs more than it saves


def rms_norm_kernel(x: Tensor, weight: Tensor, eps: float) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    if x.numel() > FEW_VALUES and eager_on_cpu(x):
        return _FusedRMSNorm.apply
    return weighted_rms_norm if x.dtype is torch.float32 else None


def weighted_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """For float32: torch's operator applies the weight too, which saves a call."""
    return F.rms_norm(x, weight.shape, weight.float(), eps)


class _FusedRMSNorm(torch.autograd.Function):
    """For CPUs, where torch has no fused kernel: its chain of operations each passes over all of x, and most of them
    save a tensor of that size for the backward pass. The written-out gradient agrees with autograd's to 1e-5 in
    float32. With `_Rotation`, 5.75 GB of memory traffic per step instead of 7.5: docs/log.md, 2026-11-23.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x_float = x.float()
        scale = (x_float.square().mean(dim=-1, keepdim=True) + eps).rsqrt()  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x_float * scale).to(x.dtype).mul_(weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        grad, x_float, weight = grad.float(), x.float(), weight.float()
        product = grad * x_float
        with torch.autocast("cpu", enabled=False):
            weight_grad = product.flatten(0, -2).t().mv(scale.flatten())
            # d scale / dx = - scale³ x / D
            through_scale = (product @ weight)[..., None] * scale.pow(3) / -x.shape[-1]  # (…, 1)
        x_grad = (grad * weight).mul_(scale).addcmul_(x_float, through_scale)
        return x_grad.to(x.dtype), weight_grad, None
