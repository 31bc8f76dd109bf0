"""What the processor is, and which library multiplies float32 on it: torch's BLAS, or oneDNN."""

import functools
from pathlib import Path

import torch
from torch import Tensor

FEW_ROWS = 16
LARGE_MATRIX = 2**17  # numbers; below, finding oneDNN's kernel takes longer than reading the matrix
MUCH_WORK = 2**20  # multiplications


@functools.cache
def cpu_info() -> str:
    """What Linux says of the processor; elsewhere nothing."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.is_file() else ""


def onednn_is_quicker(rows: int, matrix_size: int) -> bool:
    """Torch gives float32 to the BLAS it was built with, and other types to oneDNN.

    A few rows are all about reading the matrix, and the BLAS reads with one core. Many rows it multiplies slowly
    where it is MKL, but the processor AMD's.
    """
    few = rows <= FEW_ROWS and matrix_size >= LARGE_MATRIX
    return (few or (rows * matrix_size >= MUCH_WORK and mkl_is_slow())) and torch.backends.mkldnn.is_available()


@functools.cache
def mkl_is_slow() -> bool:
    return torch.backends.mkl.is_available() and "AuthenticAMD" in cpu_info()


def onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (…, I) and (O, I) → (…, O), without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
