"""Log-probabilities and cross-entropy that never hold the logits in float32: a few rows at a time.

Both equal their formulas in model/losses to 1e-6 in float32. On a CPU the chunks stay in the cache, 5.5–6.5 ms for
21–41: docs/log.md, 2026-11-23.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimind.model.config import IGNORED

CPU_CHUNK_VALUES = 2**20  # 4 MB in float32: what the second-level caches of a few cores hold
GPU_CHUNK_VALUES = 2**28  # there only memory counts, and each chunk costs launches

FromLogits = Callable[[Tensor, Tensor], Tensor]


def token_log_probs_kernel(logits: Tensor, labels: Tensor) -> FromLogits | None:
    return None if torch.compiler.is_compiling() else token_log_probs_in_chunks


def cross_entropy_kernel(logits: Tensor, labels: Tensor) -> FromLogits | None:
    return None if torch.compiler.is_compiling() else cross_entropy_sum_in_chunks


def token_log_probs_in_chunks(logits: Tensor, labels: Tensor) -> Tensor:
    return _TokenLogProbs.apply(logits.flatten(0, 1), labels.flatten()).view_as(labels)


def cross_entropy_sum_in_chunks(logits: Tensor, labels: Tensor) -> Tensor:
    return _CrossEntropySum.apply(logits.flatten(0, 1), labels.flatten())


class _TokenLogProbs(torch.autograd.Function):
    """The gradient, one-hot - softmax, needs what comes from above for each row, so the softmax is made again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        found = logits.new_empty(len(labels), dtype=_wide(logits))
        for chunk in _chunks(logits):
            found[chunk], _ = _log_probs(logits[chunk], labels[chunk])
        return found.where(labels != IGNORED, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for chunk in _chunks(logits):
            probabilities = logits[chunk].softmax(dim=-1, dtype=_wide(logits))
            gradient[chunk] = _minus_one_hot(probabilities, labels[chunk]).mul_(-upstream[chunk, None])
        return gradient, None


class _CrossEntropySum(torch.autograd.Function):
    """The gradient, softmax - one-hot, is made while the softmax is at hand, in the type of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=_wide(logits), device=logits.device)
        for chunk in _chunks(logits):
            log_probs, probabilities = _log_probs(logits[chunk], labels[chunk])
            total -= (log_probs * (labels[chunk] != IGNORED)).sum()
            if gradient is not None:
                gradient[chunk] = _minus_one_hot(probabilities, labels[chunk])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # in place: nobody else has it, and autograd refuses a second backward pass over what was changed
        return gradient.mul_(upstream.to(gradient.dtype)), None


def _chunks(logits: Tensor) -> Iterator[slice]:
    """Which rows of (R, V) are computed at a time."""
    values = CPU_CHUNK_VALUES if logits.device.type == "cpu" else GPU_CHUNK_VALUES
    rows = max(1, values // logits.shape[-1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each row's label, (R,), anything where that is IGNORED; and p of every token, (R, V)."""
    probabilities = logits.softmax(dim=-1, dtype=_wide(logits))
    # log Σ exp from the likeliest token: its probability, unlike the label's, cannot underflow
    log_sum = logits.amax(dim=-1).to(probabilities.dtype) - probabilities.amax(dim=-1).log()
    return logits.gather(1, _targets(labels))[:, 0].to(probabilities.dtype) - log_sum, probabilities


def _minus_one_hot(probabilities: Tensor, labels: Tensor) -> Tensor:
    """softmax - one-hot in place of the softmax (R, V); 0 in rows whose label is IGNORED."""
    targets = _targets(labels)
    probabilities.scatter_add_(1, targets, probabilities.new_full(targets.shape, -1.0))
    return probabilities.mul_((labels != IGNORED)[:, None])


def _targets(labels: Tensor) -> Tensor:
    """Ids that can be looked up: (R,) → (R, 1)."""
    return labels.where(labels != IGNORED, 0)[:, None]
