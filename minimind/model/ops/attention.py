"""Attention on a CPU where torch's fused kernel is slow: the eager formula, whole or in blocks of queries."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minimind.model.ops.choice import eager_on_cpu

QUERY_BLOCK = 128

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def cpu_attention_kernel(formula: Attention) -> Callable[..., Attention | None]:
    """A function that chooses between torch's kernel (None), `formula`, and `formula` in blocks of queries."""

    def in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
        return blockwise_attention(formula, q, k, v)

    def choose(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Attention | None:
        if dropout and q.device.type == "cpu":  # torch's fused kernel has no dropout, and its fallback repeats the keys
            return formula
        causal = mask is None and q.shape[2] > 1
        return in_blocks if causal and q.dtype.itemsize == 2 and eager_on_cpu(q) else None

    return choose


def blockwise_attention(formula: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal `formula` for one block of queries at a time, with only the keys that the block may attend to.

    Agrees with the whole to 1e-5 in float32. Used for 16-bit dtypes, where torch's kernel takes almost twice as long
    (96 ms instead of 56, forward and backward: docs/log.md, 2026-11-23): half of the (T, S) matrix is never computed,
    and the rest stays in the CPU's cache. It is recomputed in the backward pass rather than saved.
    """
    outputs: list[Tensor] = []
    for block in q.split(QUERY_BLOCK, dim=2):
        end = QUERY_BLOCK * len(outputs) + block.shape[2]
        inputs = (block, k[:, :, :end], v[:, :, :end], None)
        outputs.append(checkpoint(formula, *inputs, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(outputs, dim=2)
