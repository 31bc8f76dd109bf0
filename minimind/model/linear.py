"""The linear layer; on a CPU float32 goes to the library that is quicker."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.utils.cpu import onednn_is_quicker, onednn_product


class Linear(nn.Linear):
    """x Wᵀ without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O)."""
    if torch.compiler.is_compiling() or not _for_onednn(x, weight):
        return F.linear(x, weight)
    return _LinearByOneDNN.apply(x, weight) if torch.is_grad_enabled() else onednn_product(x, weight)


def _for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype is weight.dtype is torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]  # else let torch say what is wrong
        and onednn_is_quicker(x.numel() // weight.shape[1], weight.numel())
    )


class _LinearByOneDNN(torch.autograd.Function):
    """Torch's operator has no gradient; it is two more products of the same kind."""

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
