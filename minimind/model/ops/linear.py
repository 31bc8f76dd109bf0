"""x Wᵀ in float32 on a CPU, computed by the fastest of torch's libraries; all agree to 1e-5."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimind.model.ops.choice import eager_on_cpu
from minimind.utils.hardware import cpu_info

FEW_ROWS = 8
LARGE_MATRIX = 2**14  # elements; splitting a smaller one takes longer than reading it
BLOCKS = 8  # per matrix; as fast as 2 or 64 on two cores
MUCH_WORK = 2**20  # multiplications


def linear_kernel(x: Tensor, weight: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    if not _is_float32_on_cpu(x, weight):
        return None
    rows = x.numel() // weight.shape[1]
    if blocks_are_faster(rows, weight.numel()):
        return product_in_blocks
    return _OneDNNProduct.apply if onednn_is_faster(rows, weight.numel()) else None


def _is_float32_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype is weight.dtype is torch.float32
        and eager_on_cpu(x)
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]  # otherwise let torch raise its own error
    )


def blocks_are_faster(rows: int, matrix_size: int) -> bool:
    """With few rows the time goes into reading the matrix: MKL uses one core for one matrix, all cores for a batch."""
    return rows <= FEW_ROWS and matrix_size >= LARGE_MATRIX and torch.backends.mkl.is_available()


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """(…, I) and (O, I) → (…, O), as a batch of products with a few rows of W each.

    Decoding is twice as fast on an AMD EPYC: docs/log.md, 2026-11-25.
    """
    num_out, num_in = weight.shape
    blocks = math.gcd(BLOCKS, num_out)
    rows = x.reshape(-1, num_in).t().expand(blocks, -1, -1)  # (blocks, I, R)
    product = torch.bmm(weight.reshape(blocks, -1, num_in), rows)  # (blocks, O/blocks, R)
    return product.view(num_out, -1).t().contiguous().view(*x.shape[:-1], num_out)


def onednn_is_faster(rows: int, matrix_size: int) -> bool:
    """Torch computes float32 with the BLAS it was built with (and other dtypes with oneDNN), and MKL is slow on AMD."""
    return rows * matrix_size >= MUCH_WORK and mkl_is_slow() and torch.backends.mkldnn.is_available()


@functools.cache
def mkl_is_slow() -> bool:
    return torch.backends.mkl.is_available() and "AuthenticAMD" in cpu_info()


def onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    """(…, I) and (O, I) → (…, O), without autograd: half of MKL's time on an AMD EPYC (docs/log.md, 2026-11-24).

    The operator is private to torch, whose version is therefore bounded in pyproject.toml.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class _OneDNNProduct(torch.autograd.Function):
    """Adds the gradient that torch's operator lacks: two more such products. No second derivatives, no `vmap`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_grad = onednn_product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:  # gᵀ x: (O, R) (R, I)
            weight_grad = onednn_product(grad.reshape(-1, grad.shape[-1]).t(), x.reshape(-1, x.shape[-1]).t())
        return x_grad, weight_grad
