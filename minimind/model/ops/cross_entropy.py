"""Summed cross-entropy that never holds the logits in float32: a few rows at a time, in the cache of a CPU.

It equals losses.cross_entropy_sum to 1e-6. 5.5–6.5 ms for 21–41 on a CPU: docs/log.md, 2026-11-23.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimind.model.config import IGNORED

CPU_CHUNK_VALUES = 2**20  # 4 MB in float32: what the second-level caches of a few cores hold
GPU_CHUNK_VALUES = 2**28  # there only memory counts, and each chunk costs launches


def cross_entropy_kernel(logits: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    return None if torch.compiler.is_compiling() else cross_entropy_sum_in_chunks


def cross_entropy_sum_in_chunks(logits: Tensor, labels: Tensor) -> Tensor:
    return _CrossEntropySum.apply(logits.flatten(0, 1), labels.flatten())


class _CrossEntropySum(torch.autograd.Function):
    """The gradient, softmax - one-hot, is made while the softmax is at hand, in the type of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        values = CPU_CHUNK_VALUES if logits.device.type == "cpu" else GPU_CHUNK_VALUES
        rows = max(1, values // logits.shape[-1])
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for start in range(0, len(labels), rows):
            chunk = slice(start, start + rows)
            total += _loss_of(logits[chunk], labels[chunk], None if gradient is None else gradient[chunk])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # in place: nobody else has it, and autograd refuses a second backward pass over what was changed
        return gradient.mul_(upstream.to(gradient.dtype)), None


def _loss_of(logits: Tensor, labels: Tensor, gradient: Tensor | None) -> Tensor:
    """Summed loss of some rows; writes their gradient where one is wanted."""
    real = labels != IGNORED
    target = labels.where(real, 0)[:, None]
    probabilities = logits.softmax(dim=-1, dtype=torch.float32)
    # log Σ exp from the likeliest token: its probability, unlike the target's, cannot underflow
    log_sum = logits.amax(dim=-1, keepdim=True).float() - probabilities.amax(dim=-1, keepdim=True).log()
    loss = (log_sum - logits.gather(1, target).float())[:, 0]
    if gradient is not None:
        probabilities.scatter_add_(1, target, probabilities.new_full(target.shape, -1.0))
        gradient.copy_(probabilities.mul_(real[:, None]))
    return (loss * real).sum()
