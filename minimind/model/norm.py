"""Normalisation over the hidden dimension."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import Norm
from minimind.model.ops.choice import with_kernels
from minimind.model.ops.norm import rms_norm_kernel
from minimind.utils.user_code import load_class


@with_kernels(rms_norm_kernel)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight: statistics in float32, the weight in the input's dtype.

    Source: Zhang & Sennrich 2019, equation 4.
    """
    normed = F.rms_norm(x.float(), weight.shape, eps=eps)
    return normed.to(x.dtype) * weight.to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, computed in float32 whatever the input's dtype (Ba et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def build_norm(kind: str, size: int, eps: float) -> nn.Module:
    """Build a norm over the last dimension, with `size` features; `kind` may be a user's class, as module.Class."""
    built_in = {Norm.rmsnorm.value: RMSNorm, Norm.layernorm.value: LayerNorm}
    cls = built_in[kind] if kind in built_in else load_class(kind, "model.norm")
    return cls(size, eps)
