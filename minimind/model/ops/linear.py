"""x Wᵀ in float32 on a CPU, by whichever of torch's libraries is fastest; all agree to 1e-5."""

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
LARGE_MATRIX = 2**14  # numbers; below, cutting it up takes longer than reading it
BLOCKS = 8  # of a matrix; as quick as 2 or 64 on two cores
MUCH_WORK = 2**20  # multiplications


def linear_kernel(x: Tensor, weight: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    if not _float32_on_a_cpu(x, weight):
        return None
    rows = x.numel() // weight.shape[1]
    if blocks_are_quicker(rows, weight.numel()):
        return product_in_blocks
    return _ProductByOneDNN.apply if onednn_is_quicker(rows, weight.numel()) else None


def _float32_on_a_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype is weight.dtype is torch.float32
        and eager_on_cpu(x)
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]  # else let torch say what is wrong
    )


def blocks_are_quicker(rows: int, matrix_size: int) -> bool:
    """A few rows are all about reading the matrix, and MKL reads one matrix with one core, but a batch with all."""
    return rows <= FEW_ROWS and matrix_size >= LARGE_MATRIX and torch.backends.mkl.is_available()


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """(…, I) and (O, I) → (…, O), as a batch of products of a few rows of W each: decoding is twice as fast.

    Measured on an AMD EPYC, docs/log.md, 2026-11-25.
    """
    num_out, num_in = weight.shape
    blocks = math.gcd(BLOCKS, num_out)
    rows = x.reshape(-1, num_in).t().expand(blocks, -1, -1)  # (blocks, I, R)
    product = torch.bmm(weight.reshape(blocks, -1, num_in), rows)  # (blocks, O/blocks, R)
    return product.view(num_out, -1).t().contiguous().view(*x.shape[:-1], num_out)


def onednn_is_quicker(rows: int, matrix_size: int) -> bool:
    """Torch gives float32 to the BLAS it was built with, and other types to oneDNN.

    Where that BLAS is MKL, but the processor AMD's, it is slow.
    """
    return rows * matrix_size >= MUCH_WORK and mkl_is_slow() and torch.backends.mkldnn.is_available()


@functools.cache
def mkl_is_slow() -> bool:
    return torch.backends.mkl.is_available() and "AuthenticAMD" in cpu_info()


def onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    """(…, I) and (O, I) → (…, O), without a gradient: half of MKL's time on an AMD EPYC, docs/log.md, 2026-11-24.

    A private operator of torch, whose version is therefore bounded in pyproject.toml.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class _ProductByOneDNN(torch.autograd.Function):
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
