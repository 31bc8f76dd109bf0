"""Next-token prediction: cross-entropy, and for mixtures what keeps their experts balanced."""

import torch
from torch import Tensor

from minimind.data.packing import Batch, positions_within
from minimind.model.config import IGNORED, BalanceLoss, ModelConfig
from minimind.model.losses import (
    batch_balance_loss,
    cross_entropy_sum,
    expert_load,
    importance_loss,
    router_z_loss,
    sequence_balance_loss,
)
from minimind.model.moe import Routing
from minimind.model.transformer import MiniMind, Output
from minimind.objectives.protocol import ExpertUse, Loss

BALANCE_LOSSES = {
    BalanceLoss.sequence: sequence_balance_loss,
    BalanceLoss.batch: batch_balance_loss,
    BalanceLoss.importance: importance_loss,
}


def logits_of(model: MiniMind, batch: Batch) -> Output:
    """What the model makes of a batch; where it has documents, each as if it stood alone."""
    if batch.document_ids is None:
        return model(batch.input_ids)
    position_ids = positions_within(batch.document_ids)
    return model(batch.input_ids, document_ids=batch.document_ids, position_ids=position_ids)


def pretrain(model: MiniMind, batch: Batch) -> Loss:
    logits, routings = logits_of(model, batch)
    loss = cross_entropy_sum(logits, batch.labels)
    real = batch.labels != IGNORED  # (B, T)
    num_tokens = real.sum()
    if not routings:
        return Loss(loss, None, num_tokens, None)
    auxiliary, use = balance(model.config, routings, real)
    return Loss(loss, auxiliary, num_tokens, use)


def balance(cfg: ModelConfig, routings: list[Routing], real: Tensor) -> tuple[Tensor, ExpertUse]:
    """The auxiliary term of all mixture layers, each sequence weighted by its real tokens; and the experts' use."""
    weight = real.sum(dim=1).float()  # (B,)
    measure = BALANCE_LOSSES.get(cfg.balance_loss, batch_balance_loss)
    balance_losses = [measure(routing.scores, routing.indices, real) @ weight for routing in routings]
    total = torch.zeros((), device=real.device)
    if cfg.balance_loss in BALANCE_LOSSES:
        total = total + cfg.router_aux_loss_coef * torch.stack(balance_losses).sum()
    if cfg.router_z_loss_coef:
        z_losses = [router_z_loss(routing.logits, real) @ weight for routing in routings]
        total = total + cfg.router_z_loss_coef * torch.stack(z_losses).sum()
    loads = [expert_load(routing.indices, cfg.num_experts, real).sum(dim=0) for routing in routings]
    return total, ExpertUse(torch.stack(balance_losses).mean().detach(), torch.stack(loads))
