"""The linear layer, and the cast to the dtype of matrix products."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.ops.choice import with_kernels
from minimind.model.ops.linear import linear_kernel


class Linear(nn.Linear):
    """x Wᵀ without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


@with_kernels(linear_kernel)
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O)."""
    return F.linear(x, weight)


def to_matmul_dtype(x: Tensor) -> Tensor:
    """x in autocast's dtype, if enabled; products that share the result cast x and save it for backward only once."""
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))
