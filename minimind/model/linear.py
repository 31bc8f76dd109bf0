"""The linear layer."""

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
