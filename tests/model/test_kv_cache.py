from typing import Any

import pytest
import torch
from torch import Tensor

from minimind.model.config import ModelConfig
from minimind.model.kv_cache import KVCache
from minimind.model.transformer import MiniMind

B, T = 2, 11
DOCUMENTS = torch.tensor([[0] * 4 + [1] * 4 + [2] * 3, [0] * 2 + [1] * 9])
REAL = torch.ones(B, T, dtype=torch.bool)
REAL[0, :3] = REAL[1, 5:7] = False
MASKS: dict[str, dict[str, Tensor]] = {
    "causal": {},
    "padding": {"padding_mask": REAL},
    "documents": {"document_ids": DOCUMENTS},
    "both": {"document_ids": DOCUMENTS, "padding_mask": REAL},
}
CHUNKS = {"whole": [11], "chunks, then tokens": [4, 3, 1, 1, 1, 1], "tokens": [1] * 11, "a token first": [1, 6, 4]}


@torch.no_grad()
def in_chunks(model: MiniMind, ids: Tensor, chunks: list[int], masks: dict[str, Tensor]) -> Tensor:
    cache = KVCache(model.config, B, T)
    logits, start = [], 0
    for size in chunks:
        part = slice(start, start + size)
        logits.append(model(ids[:, part], cache=cache, **{name: m[:, part] for name, m in masks.items()}).logits)
        cache.advance(size)
        start += size
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("chunks", list(CHUNKS))
def test_prefill_and_decode_match_the_full_forward_pass(chunks: str, mask: str, backend: str, build: Any) -> None:
    model = build(attention_backend=backend, qk_norm=True)
    ids = torch.randint(31, (B, T))
    full = model(ids, **MASKS[mask]).logits
    torch.testing.assert_close(in_chunks(model, ids, CHUNKS[chunks], MASKS[mask]), full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "none"])
def test_every_kind_of_position_can_be_decoded(position: str, build: Any) -> None:
    model, ids = build(position=position), torch.randint(31, (B, T))
    torch.testing.assert_close(in_chunks(model, ids, [5, 1, 5], {}), model(ids).logits, rtol=1e-4, atol=1e-4)


def test_moe_decoding_matches_the_full_forward_pass(build: Any) -> None:
    """Decoding uses `single_dispatch`."""
    model = build(num_experts=4, num_experts_per_tok=2, num_shared_experts=1)
    ids = torch.randint(31, (1, T))
    cache = KVCache(model.config, 1, T)
    with torch.no_grad():
        decoded = []
        for token in ids.split(1, dim=1):
            decoded.append(model(token, cache=cache).logits)
            cache.advance(1)
    torch.testing.assert_close(torch.cat(decoded, dim=1), model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@torch.no_grad()
def test_sequences_of_different_length_decode_as_if_alone(backend: str, build: Any) -> None:
    model = build(attention_backend=backend)
    lengths, ids = torch.tensor([3, 7]), torch.randint(31, (B, 7))
    new = torch.randint(31, (B, 4))
    cache = KVCache(model.config, B, T)
    texts = [torch.cat((ids[i, : lengths[i]], new[i]))[None] for i in range(B)]
    prefill = model(ids, cache=cache).logits  # the shorter sequence is padded with arbitrary ids
    cache.advance(7, lengths)
    assert cache.lengths.tolist() == [3, 7]
    steps = []
    for size in (1, 2, 1):
        start = sum(step.shape[1] for step in steps)
        steps.append(model(new[:, start : start + size], cache=cache).logits)
        cache.advance(size)
    decoded = torch.cat(steps, dim=1)
    for i, text in enumerate(texts):
        length = int(lengths[i])
        alone = model(text).logits[0]
        torch.testing.assert_close(prefill[i, :length], alone[:length], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decoded[i], alone[length:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_without_document_ids_continue_the_last_document(build: Any) -> None:
    model, ids = build(), torch.randint(31, (B, T))
    documents = torch.tensor([[0] * 4 + [1] * 7, [5] * 11])
    cache = KVCache(model.config, B, T)
    model(ids[:, :6], cache=cache, document_ids=documents[:, :6])
    cache.advance(6)
    rest = model(ids[:, 6:], cache=cache).logits
    torch.testing.assert_close(rest, model(ids, document_ids=documents).logits[:, 6:], rtol=1e-4, atol=1e-4)


def test_gqa_cache_has_a_quarter_of_the_bytes_of_mha() -> None:
    shape: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
    mha, gqa = ModelConfig(**shape, num_key_value_heads=8), ModelConfig(**shape, num_key_value_heads=2)
    assert 4 * gqa.kv_bytes_per_token() == mha.kv_bytes_per_token()
    for cfg in (mha, gqa):
        cache = KVCache(cfg, 3, 10, dtype=torch.bfloat16)
        assert cache.keys.nbytes + cache.values.nbytes == 3 * 10 * cfg.kv_bytes_per_token(2)


@pytest.mark.parametrize("masks", [{}, {"padding_mask": torch.ones(1, 5, dtype=torch.bool)}])
def test_full_cache_error_reports_its_capacity(masks: dict[str, Tensor], build: Any) -> None:
    model = build()
    with pytest.raises(ValueError, match="holds 4 tokens, but 5 are needed"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=KVCache(model.config, 1, 4), **masks)


def test_bfloat16_cache_is_close_to_float32(build: Any) -> None:
    model, ids = build(initializer_range=0.1), torch.randint(31, (1, 6))
    cache = KVCache(model.config, 1, 6, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, cache=cache).logits, model(ids).logits, rtol=0.05, atol=0.05)
