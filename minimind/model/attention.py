"""Causal self-attention with one key/value head per query head (MHA), per group of them (GQA) or in total (MQA)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import AttentionBackend, ModelConfig
from minimind.model.kv_cache import KVCache
from minimind.model.linear import Linear, to_matmul_dtype
from minimind.model.norm import build_norm
from minimind.model.ops.attention import cpu_attention_kernel
from minimind.model.ops.choice import with_kernels
from minimind.model.rope import apply_rotary

Rotary = tuple[Tensor, Tensor]  # cos and sin from `rotary_table`


def attention_mask(
    query_slots: Tensor,
    num_keys: int,
    *,
    document_ids: Tensor | None = None,
    padding_mask: Tensor | None = None,
) -> Tensor:
    """Boolean mask, True where a query may attend to a key: (B or 1, 1, T, S).

    Args:
        query_slots: (B or 1, T) slot of each query among the keys.
        document_ids: (B, S) document of each key; a query attends only to keys of its own document.
        padding_mask: (B, S) False where the key is padding. Every query still attends to itself, so that no softmax
            is over an empty set.
    """
    key_slots = torch.arange(num_keys, device=query_slots.device)  # (S,)
    queries = query_slots[:, None, :, None]  # (B, 1, T, 1)
    mask = key_slots <= queries  # (B, 1, T, S)
    if document_ids is not None:
        query_documents = document_ids.gather(1, query_slots.expand(document_ids.shape[0], -1))  # (B, T)
        mask = mask & (query_documents[:, None, :, None] == document_ids[:, None, None, :])
    if padding_mask is not None:
        mask = mask & (padding_mask[:, None, None, :] | (key_slots == queries))
    return mask


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √H) v, written out. q is (B, N, T, H), k and v are (B, K, S, H).

    `mask=None` means causal, with the T queries in the last T of the S slots.

    Source: Vaswani et al. 2017, equation 1; grouped-query attention: Ainslie et al. 2023.
    """
    if mask is None:
        query_slots = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
        mask = attention_mask(query_slots[None], k.shape[2])
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -math.inf)  # (B or 1, 1, T, S)
    groups = q.shape[1] // k.shape[1]  # G query heads share a key head: stacking them along T avoids repeating keys
    stacked = (q / math.sqrt(q.shape[-1])).reshape(*k.shape[:2], -1, q.shape[-1])  # (B, K, G·T, H)
    scores = (stacked @ k.transpose(-2, -1)).unflatten(2, (groups, -1)) + bias[:, :, None]  # (B, K, G, T, S)
    weights = F.dropout(scores.softmax(dim=-1).to(v.dtype), dropout)
    return (weights.flatten(2, 3) @ v).view_as(q)  # (B, N, T, H)


@with_kernels(cpu_attention_kernel(eager_attention))
def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """`eager_attention` computed by torch's fused kernels: no (T, S) matrix and no repeated keys in memory.

    Without a mask, T must be S or 1: torch's `is_causal` would put the queries in the first T slots.
    """
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


class Attention(nn.Module):
    """Projections, optional QK norm and rotation, attention over the cached and new keys: (B, T, D) → (B, T, D)."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = cfg.resolved_head_dim
        self.dropout = cfg.attention_dropout
        self.attend = sdpa_attention if cfg.attention_backend is AttentionBackend.sdpa else eager_attention
        query_size, key_size = cfg.num_attention_heads * self.head_dim, cfg.num_key_value_heads * self.head_dim
        self.q_proj = Linear(cfg.hidden_size, query_size)
        self.k_proj = Linear(cfg.hidden_size, key_size)
        self.v_proj = Linear(cfg.hidden_size, key_size)
        self.o_proj = Linear(query_size, cfg.hidden_size)
        self.q_norm = build_norm(cfg.norm, self.head_dim, cfg.rms_norm_eps) if cfg.qk_norm else nn.Identity()
        self.k_norm = build_norm(cfg.norm, self.head_dim, cfg.rms_norm_eps) if cfg.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, slots: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        x = to_matmul_dtype(x)
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, T, N or K, H)
        q, k, v = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)  # (B, N, T, H)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, v = cache.write(self.layer, k, v, slots)  # (B, K, S, H)
            k, v = k.to(q.dtype), v.to(q.dtype)
        heads = self.attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, N, T, H)
        return self.o_proj(heads.transpose(1, 2).flatten(2))  # (B, T, D)
