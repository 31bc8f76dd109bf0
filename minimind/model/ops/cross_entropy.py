"""Log-probabilities and cross-entropy in chunks of rows, so that the logits are never all in float32 at once.

Both agree with their formulas in model/losses.py to 1e-6 in float32. On a CPU the chunks stay in the cache: 5.5–6.5 ms
instead of 21–41 (docs/log.md, 2026-11-23).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimind.model.config import IGNORED

CPU_CHUNK_VALUES = 2**20  # 4 MB in float32: fits the L2 caches of a few cores
GPU_CHUNK_VALUES = 2**28  # only memory matters there, and each chunk costs kernel launches

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
    """Recomputes the softmax in the backward pass, where upstream scales each row of one-hot - softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        log_probs = logits.new_empty(len(labels), dtype=_float_dtype(logits))
        for chunk in _chunks(logits):
            log_probs[chunk], _ = _log_probs(logits[chunk], labels[chunk])
        return log_probs.where(labels != IGNORED, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for chunk in _chunks(logits):
            probabilities = logits[chunk].softmax(dim=-1, dtype=_float_dtype(logits))
            gradient[chunk] = _minus_one_hot(probabilities, labels[chunk]).mul_(-upstream[chunk, None])
        return gradient, None


class _CrossEntropySum(torch.autograd.Function):
    """The gradient, softmax - one-hot, is computed in the forward pass from the same softmax, in the logits' dtype."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=_float_dtype(logits), device=logits.device)
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
        # safe in place: nothing else holds it, and autograd raises on a second backward pass through a modified tensor
        return gradient.mul_(upstream.to(gradient.dtype)), None


def _chunks(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of (R, V) that are computed together."""
    values = CPU_CHUNK_VALUES if logits.device.type == "cpu" else GPU_CHUNK_VALUES
    rows = max(1, values // logits.shape[-1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


def _float_dtype(logits: Tensor) -> torch.dtype:
    """float32, or float64 for float64 logits."""
    return torch.promote_types(logits.dtype, torch.float32)


def _log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each row's label, (R,), arbitrary where the label is IGNORED; and p of every token, (R, V)."""
    probabilities = logits.softmax(dim=-1, dtype=_float_dtype(logits))
    # log Σ exp via the likeliest token, whose probability, unlike the label's, cannot underflow
    log_sum = logits.amax(dim=-1).to(probabilities.dtype) - probabilities.amax(dim=-1).log()
    return logits.gather(1, _targets(labels))[:, 0].to(probabilities.dtype) - log_sum, probabilities


def _minus_one_hot(probabilities: Tensor, labels: Tensor) -> Tensor:
    """softmax - one-hot, in place (R, V); 0 in rows whose label is IGNORED."""
    targets = _targets(labels)
    probabilities.scatter_add_(1, targets, probabilities.new_full(targets.shape, -1.0))
    return probabilities.mul_((labels != IGNORED)[:, None])


def _targets(labels: Tensor) -> Tensor:
    """Labels as indices for gather, 0 for IGNORED: (R,) → (R, 1)."""
    return labels.where(labels != IGNORED, 0)[:, None]
