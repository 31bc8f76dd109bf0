"""What keeps the experts of a model balanced, for any objective."""

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
    """The shapes of what `balance` adds to the metrics; none for a dense model."""
    layers = sum(map(cfg.is_moe_layer, range(cfg.num_hidden_layers)))
    return {"moe/balance_loss": (), "moe/load": (layers, cfg.num_experts)} if layers else {}


def balance(
    cfg: ModelConfig, routings: list[Routing], real: Tensor, row_weight: Tensor
) -> tuple[Tensor | None, dict[str, Sum]]:
    """The auxiliary term over all MoE layers, and the metrics of the experts' use; nothing of a dense model.

    Args:
        real: (B, T) bool, the tokens that count.
        row_weight: (B,) each sequence's part of the loss's weight, to which it sums up, so that the term is as strong
            beside the loss whatever that counts.
    """
    if not routings:
        return None, {}
    measure = BALANCE_LOSSES.get(cfg.balance_loss, batch_balance_loss)
    balance_losses = [measure(routing.scores, routing.indices, real) @ row_weight for routing in routings]
    total = torch.zeros((), device=real.device)
    if cfg.balance_loss in BALANCE_LOSSES:
        total = total + cfg.router_aux_loss_coef * torch.stack(balance_losses).sum()
    if cfg.router_z_loss_coef:
        z_losses = [router_z_loss(routing.logits, real) @ row_weight for routing in routings]
        total = total + cfg.router_z_loss_coef * torch.stack(z_losses).sum()
    loads = [expert_load(routing.indices, cfg.num_experts, real).sum(dim=0) for routing in routings]
    weight = row_weight.sum()
    metrics = {
        "moe/balance_loss": (torch.stack(balance_losses).mean().detach(), weight),  # 1 at perfect balance
        "moe/load": (torch.stack(loads), weight),  # (layers, E) choices of each expert
    }
    return total, metrics
