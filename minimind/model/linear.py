"""The linear layer; on a CPU float32 goes the way that is quickest."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.utils.cpu import blocks_are_quicker, onednn_is_quicker, onednn_product, product_in_blocks


class Linear(nn.Linear):
    """x Wᵀ without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O)."""
    if torch.compiler.is_compiling() or not _float32_on_a_cpu(x, weight):
        return F.linear(x, weight)
    rows, records = x.numel() // weight.shape[1], torch.is_grad_enabled()
    if blocks_are_quicker(rows, weight.numel()) and not records:
        return product_in_blocks(x, weight)
    if onednn_is_quicker(rows, weight.numel()):
        return _LinearByOneDNN.apply(x, weight) if records else onednn_product(x, weight)
    return F.linear(x, weight)


def _float32_on_a_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype is weight.dtype is torch.float32
        and x.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]  # else let torch say what is wrong
    )


class _LinearByOneDNN(torch.autograd.Function):
    """Torch's operator has no gradient; it is two more products of the same kind. No second derivative, no `vmap`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = onednn_product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:  # gᵀ x: (O, R) (R, I)
            of_weight = onednn_product(grad.reshape(-1, grad.shape[-1]).t(), x.reshape(-1, x.shape[-1]).t())
        return of_x, of_weight
