"""What the processor is, and by which of torch's libraries it multiplies float32 soonest."""

import functools
import math
from pathlib import Path

import torch
from torch import Tensor

FEW_ROWS = 8
LARGE_MATRIX = 2**14  # numbers; below, cutting it up takes longer than reading it
BLOCKS = 8  # of a matrix; as quick as 2 or 64 on two cores
MUCH_WORK = 2**20  # multiplications


@functools.cache
def cpu_info() -> str:
    """What Linux says of the processor; elsewhere nothing."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.is_file() else ""


def blocks_are_quicker(rows: int, matrix_size: int) -> bool:
    """A few rows are all about reading the matrix, and MKL reads one matrix with one core, but a batch with all."""
    return rows <= FEW_ROWS and matrix_size >= LARGE_MATRIX and torch.backends.mkl.is_available()


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O), as a batch of products of a few rows of W each."""
    num_out, num_in = weight.shape
    blocks = math.gcd(BLOCKS, num_out)
    rows = x.reshape(-1, num_in).t().expand(blocks, -1, -1)  # (blocks, I, R)
    product = torch.bmm(weight.view(blocks, -1, num_in), rows)  # (blocks, O/blocks, R)
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
    """x Wᵀ: (…, I) and (O, I) → (…, O), without a gradient; private, so torch's version is bounded."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
