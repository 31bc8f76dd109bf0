"""Many matrix products in one: each run of rows meets a matrix of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped_matmul(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Rows ends[g-1] … ends[g]-1 times matrix g: (R, I), (G, I, O), ends (G,) int32 → (R, O).

    Runs may be empty. I and O must fill whole 16 bytes (torch's kernel).
    """
    if torch.compiler.is_compiling() and rows.dtype is not torch.bfloat16:
        return opaque_grouped_mm(rows, matrices, ends)
    return F.grouped_mm(rows, matrices, offs=ends)


# torch 2.13 computes the product in float32 but its compiler knows the shape in bfloat16 only: it is told here.
@torch.library.custom_op("minimind::grouped_mm", mutates_args=())
def opaque_grouped_mm(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(rows, matrices, offs=ends)


@torch.library.custom_op("minimind::grouped_outer", mutates_args=())
def grouped_outer(rows: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """The gradient of each matrix: its rows, transposed, times their gradients; (R, I), (R, O) → (G, I, O)."""
    return F.grouped_mm(rows.t(), grad, offs=ends)


@opaque_grouped_mm.register_fake
def _(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])


@grouped_outer.register_fake
def _(rows: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(ends.shape[0], rows.shape[1], grad.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    rows, matrices, ends = ctx.saved_tensors
    grad = grad.contiguous()
    return opaque_grouped_mm(grad, matrices.transpose(1, 2), ends), grouped_outer(rows, grad, ends), None


opaque_grouped_mm.register_autograd(_backward, setup_context=_save)
