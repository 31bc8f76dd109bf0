"""The linear layer, with a quicker kernel for the few rows that pass through it while a text is written."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 16
LARGE_MATRIX = 2**17  # numbers; below, finding oneDNN's kernel takes longer than the product


class Linear(nn.Linear):
    """x Wᵀ without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O).

    A few rows are all about reading the matrix. Torch gives float32 to the BLAS it is built with, which then reads with
    one core; oneDNN, its library for the other types, reads with all of them.
    """
    if _few_rows_on_a_cpu(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


def _few_rows_on_a_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and weight.numel() >= LARGE_MATRIX
        and x.numel() <= FEW_ROWS * weight.shape[1]
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
