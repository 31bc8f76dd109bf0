"""The experts of an MoE layer without a loop over all of them; the formula is `loop_dispatch` in moe.py.

All dispatchers agree with it to 1e-5 in float32. `grouped_linear` rounds up its groups and has a written-out gradient
for reasons measured in docs/log.md, 2026-11-23 and 2026-11-24.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind.model.linear import linear, to_matmul_dtype
from minimind.model.ops.choice import eager_on_cpu


class StackedExperts(Protocol):
    """The part of `moe.Experts` that the dispatchers use."""

    num_experts: int

    @property
    def gate_up_proj(self) -> Tensor: ...  # (E, 2F, D)

    @property
    def down_proj(self) -> Tensor: ...  # (E, D, F)

    def activate(self, gate_up: Tensor) -> Tensor: ...


Dispatch = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def dispatch_kernel(experts: Any, tokens: Tensor, indices: Tensor, weights: Tensor) -> Dispatch | None:
    """`single_dispatch` for one token on a CPU; elsewhere synchronizing costs more than it saves."""
    return single_dispatch if tokens.shape[0] == 1 and eager_on_cpu(tokens) else None


def dense_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token, weighted by zero where it was not chosen: E/A times the work, but no sorting."""
    gates = torch.zeros(tokens.shape[0], experts.num_experts, device=tokens.device, dtype=weights.dtype)
    gates = gates.scatter(1, indices, weights)  # (B·T, E)
    stacked = tokens.expand(experts.num_experts, -1, -1)  # (E, B·T, D)
    hidden = experts.activate(torch.bmm(stacked, experts.gate_up_proj.transpose(1, 2)))
    results = torch.bmm(hidden, experts.down_proj.transpose(1, 2))  # (E, B·T, D)
    return torch.einsum("te,etd->td", gates, results.float()).to(tokens.dtype)


def grouped_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Sort tokens by expert, then one grouped matmul for all experts; never synchronizes with the device."""
    num_active = indices.shape[1]
    order = indices.flatten().argsort(stable=True)  # (B·T·A,) choices sorted by expert
    ids = torch.arange(experts.num_experts, device=indices.device)
    load = (indices.reshape(-1, 1) == ids).sum(dim=0)  # (E,) number of choices of each expert
    source = order // num_active  # (B·T·A,) the token of each sorted choice
    x = to_matmul_dtype(tokens)
    multiple = group_multiple(x)
    sizes = (load + multiple - 1) // multiple * multiple  # (E,) rows of each expert's group, rounded up
    ends = sizes.cumsum(0)  # (E,) end of each expert's group
    shift = (ends - sizes) - (load.cumsum(0) - load)  # (E,) padding rows before each expert's group
    row_ids = torch.arange(len(order), device=order.device) + shift[indices.flatten()[order]]  # (B·T·A,)
    num_rows = len(order) + experts.num_experts * (multiple - 1)
    grouped = x.new_zeros(num_rows, x.shape[1]).index_copy(0, row_ids, x.index_select(0, source))  # (R, D)
    ends = ends.to(torch.int32)
    gate_up, down = experts.gate_up_proj.to(x.dtype), experts.down_proj.to(x.dtype)
    hidden = experts.activate(grouped_linear(grouped, gate_up, ends))
    results = grouped_linear(hidden, down, ends).index_select(0, row_ids)  # (B·T·A, D)
    weighted = results * weights.flatten()[order, None].to(results.dtype)
    return torch.zeros_like(tokens).index_add(0, source, weighted.to(tokens.dtype))


def single_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """One token (1, D) through its A experts only: the fast path for decoding."""
    out = torch.zeros_like(tokens)
    for weight, expert in zip(weights[0], indices[0].tolist(), strict=True):
        hidden = experts.activate(linear(tokens, experts.gate_up_proj[expert]))
        out = out + (linear(hidden, experts.down_proj[expert]) * weight).to(out.dtype)
    return out


def grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows ends[g-1] … ends[g]-1 times matrix g, for each group g: (R, I), (G, O, I), ends (G,) int32 → (R, O).

    Groups may be empty; output rows after the last group are undefined. I and O must be multiples of 16 bytes.
    """
    if not torch.compiler.is_compiling():
        return _GroupedLinear.apply(rows, weight, ends)
    if rows.dtype is torch.bfloat16:
        return _product(rows, weight, ends)
    return _compiled(rows, weight, ends)


def group_multiple(x: Tensor) -> int:
    """Multiple to round group sizes up to, so that the matmul is fast on this device.

    For bfloat16 a CPU compiles a kernel per shape, which takes longer than the product; rounded sizes recur.
    """
    return 32 if x.device.type == "cpu" and x.dtype is torch.bfloat16 else 1


def _product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)


def _gradients(grad: Tensor, rows: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the rows (R, I) and of the matrices (G, O, I).

    Torch returns the latter in the transposed layout, which costs a slow copy to the parameter's layout.
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


# The same as custom operators, because torch 2.13 can compile `grouped_mm` in bfloat16 only.
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
