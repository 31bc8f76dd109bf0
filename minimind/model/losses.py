"""Loss functions: the cross-entropy of the logits, and the auxiliary losses that keep the experts' load balanced.

The auxiliary losses take the router's output: `scores` and `logits` (B, T, E) float32, `indices` (B, T, A) of the
chosen experts, `mask` (B, T) True for the tokens that count. Each balance loss is 1 at perfect balance and E/A at
collapse, where the same A experts get every token. All return one value per sequence, (B,), so that the caller can
weight them by tokens and the total does not depend on how a step is split into micro-batches; batch-wise losses repeat
one value.
"""

import torch
from torch import Tensor

from minimind.model.config import IGNORED
from minimind.model.ops.choice import with_kernels
from minimind.model.ops.cross_entropy import cross_entropy_kernel, token_log_probs_kernel


@with_kernels(token_log_probs_kernel)
def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) of each token in nats, 0 where the label is IGNORED: (B, T) float32.

    Args:
        logits: (B, T, V), of any floating dtype; sums are in float32.
        labels: (B, T).
    """
    is_target = labels != IGNORED
    log_probs = logits.float().log_softmax(dim=-1)  # (B, T, V)
    return log_probs.gather(-1, labels.where(is_target, 0)[..., None]).squeeze(-1).where(is_target, 0)  # (B, T)


@with_kernels(cross_entropy_kernel)
def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) in nats, summed over the labels that are not IGNORED: () float32.

    Takes the same arguments as `token_log_probs`.
    """
    return -token_log_probs(logits, labels).sum()


def expert_load(indices: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """How many tokens of each sequence chose each expert: (B, E) float32."""
    # one_hot would synchronize with the device to check the range of the indices
    chosen = (indices[..., None] == torch.arange(num_experts, device=indices.device)).sum(dim=2).float()  # (B, T, E)
    return (chosen if mask is None else chosen * mask[..., None]).sum(dim=1)


def mean_scores(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean score of each expert over each sequence's tokens that count: (B, E)."""
    if mask is None:
        return scores.mean(dim=1)
    return (scores * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def sequence_balance_loss(scores: Tensor, indices: Tensor, mask: Tensor | None = None) -> Tensor:
    """E · Σ_e (share of choices)_e · (mean score)_e within each sequence: (B,).

    Source: DeepSeek-AI 2024 (V2), equations 23 to 25.
    """
    num_experts = scores.shape[-1]
    load = expert_load(indices, num_experts, mask)
    share = load / load.sum(dim=-1, keepdim=True).clamp(min=1)
    return num_experts * (share * mean_scores(scores, mask)).sum(dim=-1)


def batch_balance_loss(scores: Tensor, indices: Tensor, mask: Tensor | None = None) -> Tensor:
    """`sequence_balance_loss` of the whole batch as one sequence, repeated: (B,).

    transformers' `load_balancing_loss_func` is A times this, over the tokens of all layers together.

    Source: Fedus et al. 2021 (Switch), equation 4.
    """
    flat_mask = None if mask is None else mask.reshape(1, -1)
    loss = sequence_balance_loss(scores.flatten(0, 1)[None], indices.flatten(0, 1)[None], flat_mask)
    return loss.expand(scores.shape[0])


def importance_loss(scores: Tensor, indices: Tensor, mask: Tensor | None = None) -> Tensor:
    """E · Σ_e (mean score)_e² of the whole batch, repeated for each sequence: (B,).

    This minus 1 is the squared coefficient of variation of Shazeer et al. 2017, section 4, except that theirs is of
    the chosen gates only.
    """
    flat_mask = None if mask is None else mask.reshape(1, -1)
    mean = mean_scores(scores.flatten(0, 1)[None], flat_mask)
    return scores.shape[-1] * mean.square().sum(dim=-1).expand(scores.shape[0])


def router_z_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of (log Σ exp logits)² over each sequence's tokens that count: (B,). Source: Zoph et al. 2022, eq. 5."""
    squared = torch.logsumexp(logits, dim=-1, keepdim=True).square()
    return mean_scores(squared, mask).squeeze(-1)


def updated_selection_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """Loss-free balancing: raise the selection bias (E,) of experts below the mean load (E,), lower the others'.

    Source: Wang et al. 2024, algorithm 1 (DeepSeek-V3).
    """
    return bias + rate * torch.sign(load.mean() - load)
