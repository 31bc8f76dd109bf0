from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from minimind.model.attention import Attention, attention_mask, eager_attention, sdpa_attention
from minimind.model.config import ModelConfig
from minimind.model.ops.attention import blockwise_attention
from minimind.model.rope import rotary_table

B, T = 2, 7
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1]])
REAL = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]]).bool()  # padded on the right, on the left
MASKS: dict[str, dict[str, Tensor]] = {
    "causal": {},
    "padding": {"padding_mask": REAL},
    "documents": {"document_ids": DOCUMENTS},
    "both": {"document_ids": DOCUMENTS, "padding_mask": REAL},
}


def mask_of(kind: str) -> Tensor | None:
    return attention_mask(torch.arange(T)[None], T, **MASKS[kind]) if MASKS[kind] else None


@pytest.mark.parametrize("kind", list(MASKS))
def test_mask_matches_its_definition(kind: str) -> None:
    mask = attention_mask(torch.arange(T)[None], T, **MASKS[kind]).expand(B, -1, -1, -1)
    for sequence in range(B):
        for query in range(T):
            for key in range(T):
                allowed = key <= query
                if kind in ("documents", "both"):
                    allowed = allowed and bool(DOCUMENTS[sequence, key] == DOCUMENTS[sequence, query])
                if kind in ("padding", "both"):
                    allowed = allowed and (bool(REAL[sequence, key]) or key == query)
                assert mask[sequence, 0, query, key] == allowed, (sequence, query, key)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", list(MASKS))
def test_backends_agree_in_outputs_and_gradients(kind: str, kv_heads: int) -> None:
    torch.manual_seed(0)
    shapes = [(B, 4, T, 8), (B, kv_heads, T, 8), (B, kv_heads, T, 8)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    results = [attend(*inputs, mask_of(kind)) for attend in (eager_attention, sdpa_attention)]
    torch.testing.assert_close(*results)
    direction = torch.randn_like(results[0])
    eager, sdpa = (torch.autograd.grad(result, inputs, direction) for result in results)
    for eager_gradient, sdpa_gradient in zip(eager, sdpa, strict=True):
        torch.testing.assert_close(eager_gradient, sdpa_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attend", [eager_attention, sdpa_attention])
def test_grouped_query_attention_equals_repeated_key_heads(attend: Any) -> None:
    q, k, v = torch.randn(B, 4, T, 8), torch.randn(B, 2, T, 8), torch.randn(B, 2, T, 8)
    repeated = attend(q, k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1), None)
    torch.testing.assert_close(attend(q, k, v, None), repeated)


def test_sdpa_does_not_repeat_keys_in_memory() -> None:
    q, k, v = torch.randn(1, 8, 64, 8), torch.randn(1, 2, 64, 8), torch.randn(1, 2, 64, 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        sdpa_attention(q, k, v, None)
        sdpa_attention(q, k, v, None, dropout=0.1)
    kernels = [event for event in profile.events() if event.name.startswith("aten::_scaled_dot_product")]
    assert kernels
    assert all(event.input_shapes[1] == event.input_shapes[2] == [1, 2, 64, 8] for event in kernels)


def run(attention: Attention, cfg: ModelConfig, x: Tensor, mask: Tensor | None = None) -> Tensor:
    slots = torch.arange(x.shape[1])[None]
    return attention(x, rotary_table(cfg, slots), mask, slots)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
def test_layer_matches_transformers(qk_norm: bool, backend: str, tiny: Any) -> None:
    cfg = tiny(qk_norm=qk_norm, attention_backend=backend, head_dim=12)
    kind, layer = (Qwen3Config, Qwen3Attention) if qk_norm else (LlamaConfig, LlamaAttention)
    theirs = layer(
        kind(
            hidden_size=cfg.hidden_size, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
            rms_norm_eps=cfg.rms_norm_eps, attn_implementation="eager",
        ), 0,
    )  # fmt: skip
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    ours = Attention(cfg, 0)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(B, T, cfg.hidden_size)
    cos, sin = rotary_table(cfg, torch.arange(T)[None])
    causal = torch.full((T, T), -torch.inf).triu(1)[None, None]
    expected, _ = theirs(x, (cos[:, 0], sin[:, 0]), causal)
    torch.testing.assert_close(run(ours, cfg, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_dropout_is_active_only_in_training(backend: str, tiny: Any) -> None:
    cfg = tiny(attention_dropout=0.5, attention_backend=backend)
    attention, x = Attention(cfg, 0), torch.randn(B, T, cfg.hidden_size)
    plain = Attention(tiny(attention_backend=backend), 0)
    plain.load_state_dict(attention.state_dict())
    torch.testing.assert_close(run(attention.eval(), cfg, x), run(plain, cfg, x))
    assert not torch.allclose(run(attention.train(), cfg, x), run(plain, cfg, x))


def test_sequence_of_only_padding_stays_finite() -> None:
    q = torch.randn(1, 2, T, 8, requires_grad=True)
    mask = attention_mask(torch.arange(T)[None], T, padding_mask=torch.zeros(1, T, dtype=torch.bool))
    for attend in (eager_attention, sdpa_attention):
        out = attend(q, q, q, mask)
        assert out.isfinite().all()
        assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize("length", [5, 128, 300])
def test_blockwise_attention_matches_full_attention(length: int) -> None:
    torch.manual_seed(0)
    shapes = [(B, 4, length, 8), (B, 2, length, 8), (B, 2, length, 8)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    direction = torch.randn(shapes[0])
    results = [blockwise_attention(eager_attention, *inputs), eager_attention(*inputs, None)]
    torch.testing.assert_close(*results)
    blockwise, full = (torch.autograd.grad(result, inputs, direction) for result in results)
    for blockwise_gradient, full_gradient in zip(blockwise, full, strict=True):
        torch.testing.assert_close(blockwise_gradient, full_gradient, rtol=1e-4, atol=1e-5)
