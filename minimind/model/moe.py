"""Mixture of experts: a router sends each token to A of E small MLPs; shared experts see every token."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import BalanceLoss, Dispatch, ModelConfig, RouterScore
from minimind.model.grouped_linear import grouped_linear, run_multiple
from minimind.model.linear import linear
from minimind.model.mlp import ACTIVATIONS, MLP
from minimind.model.precision import for_matmul


class Routing(NamedTuple):
    """What the router decided, kept for the balance losses and for looking at the load."""

    logits: Tensor  # (B, T, E) float32
    scores: Tensor  # (B, T, E) float32, each token's sum to 1
    indices: Tensor  # (B, T, A)
    weights: Tensor  # (B, T, A) float32, what the chosen experts' outputs are multiplied by


class Router(nn.Module):
    """Scores in float32 whatever the precision around it: rounding here changes which expert is chosen."""

    selection_bias: Tensor

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.num_active = cfg.num_experts_per_tok
        self.norm_topk_prob = cfg.norm_topk_prob
        self.score = cfg.router_score
        self.weight = nn.Parameter(torch.empty(cfg.num_experts, cfg.hidden_size))
        loss_free = cfg.balance_loss is BalanceLoss.loss_free
        self.register_buffer("selection_bias", torch.zeros(cfg.num_experts) if loss_free else None)

    def forward(self, x: Tensor) -> Routing:
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())  # (B, T, E)
        if self.score is RouterScore.softmax:
            gates = scores = logits.softmax(dim=-1)
        else:
            gates = logits.sigmoid()
            scores = gates / gates.sum(dim=-1, keepdim=True)
        # The bias of loss-free balancing decides who is chosen, never how much the chosen one counts.
        ranking = gates if self.selection_bias is None else gates + self.selection_bias
        indices = ranking.topk(self.num_active, dim=-1).indices  # (B, T, A)
        weights = gates.gather(-1, indices)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return Routing(logits, scores, indices, weights)


class Experts(nn.Module):
    """E MLPs stacked on the first dimension, in the layout of transformers' Qwen3-MoE."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.num_experts = cfg.num_experts
        self.act = ACTIVATIONS[cfg.hidden_act]
        self.gated = cfg.gated_mlp
        size, hidden = cfg.resolved_moe_intermediate_size, cfg.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(cfg.num_experts, (2 if cfg.gated_mlp else 1) * size, hidden))
        self.down_proj = nn.Parameter(torch.empty(cfg.num_experts, hidden, size))
        self.dispatch = DISPATCHERS[resolve_dispatch(cfg)]

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        tokens = x.flatten(0, 1)  # (B·T, D)
        indices, weights = routing.indices.flatten(0, 1), routing.weights.flatten(0, 1)  # (B·T, A)
        dispatch = single_dispatch if _writes_one_token(tokens) else self.dispatch
        return dispatch(self, tokens, indices, weights).view_as(x)

    def activate(self, gate_up: Tensor) -> Tensor:
        """The non-linearity between the two matrices: (…, 2F) → (…, F)."""
        if not self.gated:
            return self.act(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act(gate) * up


def loop_dispatch(experts: Experts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Expert by expert, the readable way. Finding each one's tokens waits for the device."""
    out = torch.zeros_like(tokens)
    for expert in range(experts.num_experts):
        rows, place = torch.where(indices == expert)  # tokens that chose this expert, and as which of their A
        hidden = experts.activate(F.linear(tokens[rows], experts.gate_up_proj[expert]))
        result = F.linear(hidden, experts.down_proj[expert]) * weights[rows, place, None]
        out = out.index_add(0, rows, result.to(out.dtype))
    return out


def dense_dispatch(experts: Experts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token, weighted by zero where it was not chosen: E/A times the work, no sorting."""
    gates = torch.zeros(tokens.shape[0], experts.num_experts, device=tokens.device, dtype=weights.dtype)
    gates = gates.scatter(1, indices, weights)  # (B·T, E)
    stacked = tokens.expand(experts.num_experts, -1, -1)  # (E, B·T, D)
    hidden = experts.activate(torch.bmm(stacked, experts.gate_up_proj.transpose(1, 2)))
    results = torch.bmm(hidden, experts.down_proj.transpose(1, 2))  # (E, B·T, D)
    return torch.einsum("te,etd->td", gates, results.float()).to(tokens.dtype)


def grouped_dispatch(experts: Experts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
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


def single_dispatch(experts: Experts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """One token (1, D) through its A experts and no others: the lighter path while a text is written."""
    out = torch.zeros_like(tokens)
    for weight, expert in zip(weights[0], indices[0].tolist(), strict=True):
        hidden = experts.activate(linear(tokens, experts.gate_up_proj[expert]))
        out = out + (linear(hidden, experts.down_proj[expert]) * weight).to(out.dtype)
    return out


def _writes_one_token(tokens: Tensor) -> bool:
    """Not on an accelerator: there, asking which experts were chosen costs more than it saves."""
    alone = tokens.shape[0] == 1 and tokens.device.type == "cpu"
    return alone and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


DISPATCHERS: dict[Dispatch, Callable[[Experts, Tensor, Tensor, Tensor], Tensor]] = {
    Dispatch.loop: loop_dispatch,
    Dispatch.dense: dense_dispatch,
    Dispatch.grouped: grouped_dispatch,
}


def resolve_dispatch(cfg: ModelConfig) -> Dispatch:
    """`auto`: grouped where torch's kernel takes the sizes (rows of whole 16 bytes), else the loop."""
    if cfg.moe_dispatch is not Dispatch.auto:
        return cfg.moe_dispatch
    aligned = cfg.hidden_size % 8 == 0 and cfg.resolved_moe_intermediate_size % 8 == 0
    return Dispatch.grouped if aligned and hasattr(F, "grouped_mm") else Dispatch.loop


class MoE(nn.Module):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(cfg)
        self.experts = Experts(cfg)
        shared_size = cfg.num_shared_experts * cfg.resolved_moe_intermediate_size
        # n shared experts side by side are one MLP n times as wide
        self.shared_experts = MLP(cfg, shared_size) if shared_size else None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        routing = self.gate(x)
        out = self.experts(x, routing)  # (B, T, D)
        return (out if self.shared_experts is None else out + self.shared_experts(x)), routing
