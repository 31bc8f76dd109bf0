"""What a CPU computes in place of torch's fused attention: the written-out formula, as a whole or in blocks."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minimind.model.ops.choice import eager_on_cpu

QUERY_BLOCK = 128

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def cpu_attention_kernel(formula: Attention) -> Callable[..., Attention | None]:
    """The choice between torch's kernel (None), `formula` as a whole, and `formula` in blocks."""

    def in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
        return blockwise_attention(formula, q, k, v)

    def choose(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Attention | None:
        if dropout and q.device.type == "cpu":  # torch's kernel knows none; what it takes instead repeats the keys
            return formula
        causal = mask is None and q.shape[2] > 1
        return in_blocks if causal and q.dtype.itemsize == 2 and eager_on_cpu(q) else None

    return choose


def blockwise_attention(formula: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`formula`, causal, for a block of queries at a time and only the keys it may see.

    It equals the whole to 1e-5 in float32. For 16 bits, where torch's kernel takes almost twice as long (96 ms for 56,
    forward and backward: docs/log.md, 2026-11-23): half of the (T, S) matrix is never made, and what is made stays in
    the CPU's cache. It is made again for the gradient, so that none of it is kept.
    """
    outputs: list[Tensor] = []
    for block in q.split(QUERY_BLOCK, dim=2):
        end = QUERY_BLOCK * len(outputs) + block.shape[2]
        seen = (block, k[:, :, :end], v[:, :, :end], None)
        outputs.append(checkpoint(formula, *seen, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(outputs, dim=2)
