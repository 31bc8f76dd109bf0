"""Normalisation over the hidden dimension."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.config import Norm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight: statistics in float32, the weight in the input's dtype.

    Source: Zhang & Sennrich 2019, equation 4.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _RMSNormOnCPU.apply(x, self.weight, self.eps)
        if x.dtype is torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight.float(), self.eps)
        normed = F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)
        return normed * self.weight.to(x.dtype)


class _RMSNormOnCPU(torch.autograd.Function):
    """The same with its gradient written out. torch has no kernel of it for the CPU, only a chain of small steps,
    each of which passes over all of x and most of which keep a tensor of its size for the backward pass.
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


class LayerNorm(nn.LayerNorm):
    """Mean and variance removed, then weight and bias; float32 inside (Ba et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def build_norm(kind: Norm, size: int, eps: float) -> nn.Module:
    return LayerNorm(size, eps) if kind is Norm.layernorm else RMSNorm(size, eps)
