"""Many linear layers in one: each run of rows meets a matrix of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows ends[g-1] … ends[g]-1 through matrix g: (R, I), (G, O, I), ends (G,) int32 → (R, O).

    Runs may be empty; rows after the last run come out as garbage. I and O must fill whole 16 bytes (torch's kernel).
    """
    if torch.compiler.is_compiling() and rows.dtype is torch.bfloat16:
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    return _grouped_linear(rows, weight, ends)


def run_multiple(x: Tensor) -> int:
    """What the length of each run should be a multiple of, so that this device is quick.

    A CPU compiles a kernel for every new shape in bfloat16, which takes longer than the product; rounded lengths come
    again and again.
    """
    return 32 if x.device.type == "cpu" and x.dtype is torch.bfloat16 else 1


# An operator of our own for two reasons: torch 2.13's compiler knows the shape of its own in bfloat16 only, and its
# gradient comes in the transposed layout, which costs a slow copy into that of the parameter.
@torch.library.custom_op("minimind::grouped_linear", mutates_args=())
def _grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)


@torch.library.custom_op("minimind::grouped_linear_backward", mutates_args=())
def _grouped_linear_backward(grad: Tensor, rows: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the rows (R, I), and of the matrices (G, O, I): each one's gradients, transposed, times its rows."""
    return F.grouped_mm(grad, weight, offs=ends), F.grouped_mm(grad.t(), rows, offs=ends)


@_grouped_linear.register_fake
def _(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[1])


@_grouped_linear_backward.register_fake
def _(grad: Tensor, rows: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_grouped_linear_backward(grad.contiguous(), *ctx.saved_tensors), None


_grouped_linear.register_autograd(_backward, setup_context=_save)
