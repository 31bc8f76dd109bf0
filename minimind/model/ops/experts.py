"""The experts of an MoE layer without a loop over them; moe.loop_dispatch is the formula.

All agree with it to 1e-5 in float32.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from minimind.model.linear import linear
from minimind.model.ops.choice import eager_on_cpu
from minimind.model.ops.grouped_linear import grouped_linear, run_multiple
from minimind.model.precision import for_matmul


class StackedExperts(Protocol):
    """What is asked of `moe.Experts`."""

    num_experts: int

    @property
    def gate_up_proj(self) -> Tensor: ...  # (E, 2F, D)

    @property
    def down_proj(self) -> Tensor: ...  # (E, D, F)

    def activate(self, gate_up: Tensor) -> Tensor: ...


Dispatch = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def dispatch_kernel(experts: Any, tokens: Tensor, indices: Tensor, weights: Tensor) -> Dispatch | None:
    """Not on an accelerator: there, asking which experts were chosen costs more than it saves."""
    return single_dispatch if tokens.shape[0] == 1 and eager_on_cpu(tokens) else None


def dense_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token, weighted by zero where it was not chosen: E/A times the work, no sorting."""
    gates = torch.zeros(tokens.shape[0], experts.num_experts, device=tokens.device, dtype=weights.dtype)
    gates = gates.scatter(1, indices, weights)  # (B·T, E)
    stacked = tokens.expand(experts.num_experts, -1, -1)  # (E, B·T, D)
    hidden = experts.activate(torch.bmm(stacked, experts.gate_up_proj.transpose(1, 2)))
    results = torch.bmm(hidden, experts.down_proj.transpose(1, 2))  # (E, B·T, D)
    return torch.einsum("te,etd->td", gates, results.float()).to(tokens.dtype)


def grouped_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Tokens sorted by expert, then one grouped matmul for all experts; never waits for the device."""
    num_active = indices.shape[1]
    order = indices.flatten().argsort(stable=True)  # (B·T·A,) which choice stands where after sorting
    ids = torch.arange(experts.num_experts, device=indices.device)
    load = (indices.reshape(-1, 1) == ids).sum(dim=0)  # (E,) rows of each expert
    source = order // num_active  # the token behind each choice
    x = for_matmul(tokens)
    multiple = run_multiple(x)
    runs = (load + multiple - 1) // multiple * multiple  # (E,) the same, with empty rows to fill up
    ends = runs.cumsum(0)  # (E,) where each expert's run of rows ends
    shift = (ends - runs) - (load.cumsum(0) - load)  # (E,) how far the empty rows before it move an expert's rows
    place = torch.arange(len(order), device=order.device) + shift[indices.flatten()[order]]  # (B·T·A,)
    num_rows = len(order) + experts.num_experts * (multiple - 1)
    grouped = x.new_zeros(num_rows, x.shape[1]).index_copy(0, place, x.index_select(0, source))  # (R, D)
    ends = ends.to(torch.int32)
    gate_up, down = experts.gate_up_proj.to(x.dtype), experts.down_proj.to(x.dtype)
    hidden = experts.activate(grouped_linear(grouped, gate_up, ends))
    results = grouped_linear(hidden, down, ends).index_select(0, place)  # (B·T·A, D)
    weighted = results * weights.flatten()[order, None].to(results.dtype)
    return torch.zeros_like(tokens).index_add(0, source, weighted.to(tokens.dtype))


def single_dispatch(experts: StackedExperts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """One token (1, D) through its A experts and no others: the lighter path while a text is written."""
    out = torch.zeros_like(tokens)
    for weight, expert in zip(weights[0], indices[0].tolist(), strict=True):
        hidden = experts.activate(linear(tokens, experts.gate_up_proj[expert]))
        out = out + (linear(hidden, experts.down_proj[expert]) * weight).to(out.dtype)
    return out
