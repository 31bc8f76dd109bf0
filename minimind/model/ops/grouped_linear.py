"""Many linear layers in one: each run of rows meets a matrix of its own.

Equal to a product for each run to 1e-5 in float32. Why runs are rounded up, and gradients written out: docs/log.md,
2026-11-23 and 2026-11-24.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """MetricsWriter ends[g-1] … ends[g]-1 through matrix g: (R, I), (G, O, I), ends (G,) int32 → (R, O).

    Runs may be empty; rows after the last run come out as garbage. I and O must fill whole 16 bytes (torch's kernel).
    """
    if not torch.compiler.is_compiling():
        return _GroupedLinear.apply(rows, weight, ends)
    if rows.dtype is torch.bfloat16:
        return _product(rows, weight, ends)
    return _compiled(rows, weight, ends)


def run_multiple(x: Tensor) -> int:
    """What the length of each run should be a multiple of, so that this device is quick.

    A CPU compiles a kernel for every new shape in bfloat16, which takes longer than the product; rounded lengths come
    again and again.
    """
    return 32 if x.device.type == "cpu" and x.dtype is torch.bfloat16 else 1


def _product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)


def _gradients(grad: Tensor, rows: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Of the rows (R, I), and of the matrices (G, O, I): each one's gradients, transposed, times its rows.

    Torch's own comes in the transposed layout, which costs a slow copy into that of the parameter.
    """
    return F.grouped_mm(grad, weight, offs=ends), F.grouped_mm(grad.t(), rows, offs=ends)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight, ends)
        return _product(rows, weight, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_gradients(grad.contiguous(), *ctx.saved_tensors), None


# The same as an operator: torch 2.13's compiler knows the shapes of `grouped_mm` in bfloat16 only.
_compiled = torch.library.custom_op("minimind::grouped_linear", _product, mutates_args=())
_compiled_gradients = torch.library.custom_op("minimind::grouped_linear_backward", _gradients, mutates_args=())


@_compiled.register_fake
def _(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[1])


@_compiled_gradients.register_fake
def _(grad: Tensor, rows: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_compiled_gradients(grad.contiguous(), *ctx.saved_tensors), None


_compiled.register_autograd(_backward, setup_context=_save)
