"""Mixture of experts: a router sends each token to A of E small MLPs; shared experts process every token."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import BalanceLoss, Dispatch, ModelConfig, RouterScore
from minimind.model.mlp import ACTIVATIONS, MLP
from minimind.model.ops.choice import with_kernels
from minimind.model.ops.experts import dense_dispatch, dispatch_kernel, grouped_dispatch


class Routing(NamedTuple):
    """The router's output, used by the experts, the balance losses and the load metrics."""

    logits: Tensor  # (B, T, E) float32
    scores: Tensor  # (B, T, E) float32, summing to 1 over the experts
    indices: Tensor  # (B, T, A) the chosen experts
    weights: Tensor  # (B, T, A) float32 factors of the chosen experts' outputs


class Router(nn.Module):
    """Scores experts and picks the top A per token, always in float32: rounding could change which are chosen."""

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
        # The bias of loss-free balancing affects which experts are chosen, but not their weights.
        ranking = gates if self.selection_bias is None else gates + self.selection_bias
        indices = ranking.topk(self.num_active, dim=-1).indices  # (B, T, A)
        weights = gates.gather(-1, indices)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return Routing(logits, scores, indices, weights)


class Experts(nn.Module):
    """E MLPs whose weights are stacked along the first dimension, laid out as in transformers' Qwen3-MoE."""

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
        return self.mix(tokens, indices, weights).view_as(x)

    @with_kernels(dispatch_kernel)
    def mix(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Σ_a weight_a · expert_a(token) over the A experts of each token: (B·T, D) → (B·T, D)."""
        return self.dispatch(self, tokens, indices, weights)

    def activate(self, gate_up: Tensor) -> Tensor:
        """The non-linearity between the two projections: (…, 2F) → (…, F); ungated (…, F) → (…, F)."""
        if not self.gated:
            return self.act(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act(gate) * up


def loop_dispatch(experts: Experts, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """One expert at a time: the reference implementation. `torch.where` synchronizes with the device."""
    out = torch.zeros_like(tokens)
    for expert in range(experts.num_experts):
        chosen_by, choice = torch.where(indices == expert)  # tokens that chose this expert, and as which of their A
        hidden = experts.activate(F.linear(tokens[chosen_by], experts.gate_up_proj[expert]))
        result = F.linear(hidden, experts.down_proj[expert]) * weights[chosen_by, choice, None]
        out = out.index_add(0, chosen_by, result.to(out.dtype))
    return out


DISPATCHERS: dict[Dispatch, Callable[[Experts, Tensor, Tensor, Tensor], Tensor]] = {
    Dispatch.loop: loop_dispatch,
    Dispatch.dense: dense_dispatch,
    Dispatch.grouped: grouped_dispatch,
}


def resolve_dispatch(cfg: ModelConfig) -> Dispatch:
    """`auto` picks grouped where torch's kernel supports the sizes (rows of a multiple of 16 bytes), else loop."""
    if cfg.moe_dispatch is not Dispatch.auto:
        return cfg.moe_dispatch
    aligned = cfg.hidden_size % 8 == 0 and cfg.resolved_moe_intermediate_size % 8 == 0
    return Dispatch.grouped if aligned and hasattr(F, "grouped_mm") else Dispatch.loop


class MoE(nn.Module):
    """Router, experts and shared experts in place of a block's MLP: (B, T, D) → (B, T, D)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(cfg)
        self.experts = Experts(cfg)
        shared_size = cfg.num_shared_experts * cfg.resolved_moe_intermediate_size
        # the sum of n shared experts equals one MLP n times as wide
        self.shared_experts = MLP(cfg, shared_size) if shared_size else None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        routing = self.gate(x)
        out = self.experts(x, routing)  # (B, T, D)
        return (out if self.shared_experts is None else out + self.shared_experts(x)), routing
