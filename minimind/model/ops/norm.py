"""RMSNorm with fewer passes over its input than the formula, to whose values all are equal to the bit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.ops.choice import eager_on_cpu

FEW_VALUES = 2**10  # up to here, as in decoding, calling an autograd function costs more than it saves


def rms_norm_kernel(x: Tensor, weight: Tensor, eps: float) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    if x.numel() > FEW_VALUES and eager_on_cpu(x):
        return _WithItsGradient.apply
    return weighted_rms_norm if x.dtype is torch.float32 else None


def weighted_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """For float32: the weight is applied by torch's operator, a call less."""
    return F.rms_norm(x, weight.shape, weight.float(), eps)


class _WithItsGradient(torch.autograd.Function):
    """For the CPU, where torch has no kernel, only a chain of small steps, each of which passes over all of x and most
    of which keep a tensor of its size for the backward pass. The gradient, written out, agrees with autograd's to 1e-5
    in float32. From 7.5 to 5.75 GB moved in a step, together with the rotation: docs/log.md, 2026-11-23.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt()  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        grad, wide, weight = grad.float(), x.float(), weight.float()
        product = grad * wide
        with torch.autocast("cpu", enabled=False):
            weight_grad = product.flatten(0, -2).t().mv(scale.flatten())
            # d scale / dx = - scale³ x / D
            through_scale = (product @ weight)[..., None] * scale.pow(3) / -x.shape[-1]  # (…, 1)
        x_grad = (grad * weight).mul_(scale).addcmul_(wide, through_scale)
        return x_grad.to(x.dtype), weight_grad, None
