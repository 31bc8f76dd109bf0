"""The auxiliary losses and metrics of MoE models, for any objective."""

import torch
from torch import Tensor

from minimind.model.config import BalanceLoss, ModelConfig
from minimind.model.losses import (
    batch_balance_loss,
    expert_load,
    importance_loss,
    router_z_loss,
    sequence_balance_loss,
)
from minimind.model.moe import Routing
from minimind.objectives.protocol import Sum

BALANCE_LOSSES = {
    BalanceLoss.sequence: sequence_balance_loss,
    BalanceLoss.batch: batch_balance_loss,
    BalanceLoss.importance: importance_loss,
}


def routing_metrics(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the metrics that `balance` adds; empty for a dense model."""
    layers = cfg.num_moe_layers
    return {"moe/balance_loss": (), "moe/load": (layers, cfg.num_experts)} if layers else {}


def balance(
    cfg: ModelConfig, routings: list[Routing], mask: Tensor, sequence_weights: Tensor
) -> tuple[Tensor | None, dict[str, Sum]]:
    """The auxiliary loss summed over all MoE layers, and the load metrics; (None, {}) for a dense model.

    Args:
        mask: (B, T) bool, True for the tokens that count.
        sequence_weights: (B,) each sequence's share of `Loss.weight`. They sum to it, so that the auxiliary loss is
            equally strong relative to the loss, whether the objective counts tokens, pairs or sequences.
    """
    if not routings:
        return None, {}
    balance_loss = BALANCE_LOSSES.get(cfg.balance_loss, batch_balance_loss)
    balance_losses = [balance_loss(routing.scores, routing.indices, mask) @ sequence_weights for routing in routings]
    total = torch.zeros((), device=mask.device)
    if cfg.balance_loss in BALANCE_LOSSES:
        total = total + cfg.router_aux_loss_coef * torch.stack(balance_losses).sum()
    if cfg.router_z_loss_coef:
        z_losses = [router_z_loss(routing.logits, mask) @ sequence_weights for routing in routings]
        total = total + cfg.router_z_loss_coef * torch.stack(z_losses).sum()
    loads = [expert_load(routing.indices, cfg.num_experts, mask).sum(dim=0) for routing in routings]
    weight = sequence_weights.sum()
    metrics = {
        "moe/balance_loss": (torch.stack(balance_losses).mean().detach(), weight),  # 1 at perfect balance
        "moe/load": (torch.stack(loads), weight),  # (MoE layers, E) tokens that chose each expert
    }
    return total, metrics
