"""The model's outputs are bitwise the same whether or not gradients are recorded.

So the log-probabilities that a policy is trained on equal those of evaluation and generation.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from minimind.model.config import ModelConfig
from minimind.model.kv_cache import KVCache
from minimind.model.losses import IGNORED, cross_entropy_sum, token_log_probs
from minimind.model.ops import linear
from minimind.model.ops.attention import QUERY_BLOCK
from minimind.model.transformer import MiniMind
from minimind.utils.hardware import autocast

CPU = torch.device("cpu")
LENGTHS = [1, 4, 80, QUERY_BLOCK + 22]  # one token, few rows, enough rows for oneDNN, several blocks of queries
KINDS: dict[str, dict[str, Any]] = {
    "sdpa": {},
    "eager": {"attention_backend": "eager", "num_key_value_heads": 4, "qk_norm": False},
    "layernorm": {"norm": "layernorm", "position": "learned", "tie_word_embeddings": False},
    "loop": {"num_experts": 4, "num_experts_per_tok": 2, "moe_dispatch": "loop"},
    "grouped": {"num_experts": 4, "num_experts_per_tok": 2, "moe_dispatch": "grouped"},
    "dense": {"num_experts": 4, "num_shared_experts": 1, "moe_dispatch": "dense"},
    "checkpointed": {"gradient_checkpointing": True},
}
MASKS = {"sdpa": ["none", "documents", "padding"], "eager": ["none", "documents"]}
CASES = [(kind, mask) for kind in KINDS for mask in MASKS.get(kind, ["none"])]


def build(precision: str, **changes: Any) -> MiniMind:
    """A model whose matrices are large enough for every kernel to be used."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        vocab_size=300, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=192, qk_norm=True, max_position_embeddings=2 * QUERY_BLOCK, initializer_range=0.1,
    )  # fmt: skip
    model = MiniMind(ModelConfig(**{**sizes, **changes}))
    return model.bfloat16() if precision == "bf16-true" else model


@pytest.fixture(params=["32-true", "bf16-true", "bf16-mixed"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["slow MKL", "fast BLAS"])
def _any_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: request.param)


def recordings(model: MiniMind) -> dict[str, AbstractContextManager[Any]]:
    """Training mode, then each way of not recording gradients."""
    model.train()
    return {"training": nullcontext(), "no_grad": torch.no_grad(), "inference_mode": torch.inference_mode()}


def outputs(logits: Tensor, ids: Tensor) -> list[Tensor]:
    labels = ids.roll(-1, dims=1).masked_fill(ids % 7 == 0, IGNORED)
    return [logits, token_log_probs(logits, labels), cross_entropy_sum(logits, labels)]


def assert_all_equal(found: dict[str, list[Tensor]]) -> None:
    for name, tensors in found.items():
        for index, (tensor, expected) in enumerate(zip(tensors, found["training"], strict=True)):
            assert torch.equal(tensor, expected), f"output {index} under {name}"
    assert found["training"][0].requires_grad


@pytest.mark.usefixtures("_any_cpu")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("kind", "mask"), CASES)
def test_forward_pass(kind: str, length: int, mask: str, precision: str) -> None:
    model = build(precision, **KINDS[kind])
    ids = torch.randint(300, (1 if length == 1 else 2, length))
    masks: dict[str, Any] = {
        "none": {}, "documents": {"document_ids": torch.arange(length).expand_as(ids) // 5},
        "padding": {"padding_mask": torch.arange(length).expand_as(ids) != 1},
    }[mask]  # fmt: skip
    found = {}
    for name, recording in recordings(model).items():
        model.train(name == "training")
        with recording, autocast(precision, CPU):
            found[name] = outputs(model(ids, **masks).logits, ids)
    assert_all_equal(found)


@pytest.mark.usefixtures("_any_cpu")
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["sdpa", "eager", "loop", "grouped", "dense"])
def test_decoding_from_a_cache(kind: str, batch_size: int, precision: str) -> None:
    model = build(precision, **KINDS[kind])
    ids = torch.randint(300, (batch_size, 12))
    found = {}
    for name, recording in recordings(model).items():
        with recording, autocast(precision, CPU):
            cache = KVCache(model.config, batch_size, ids.shape[1], dtype=model.dtype)
            parts = []
            for tokens in ids.split([9, 1, 1, 1], dim=1):
                parts.append(model(tokens, cache=cache).logits)
                cache.advance(tokens.shape[1])
            found[name] = outputs(torch.cat(parts, dim=1), ids)
    assert_all_equal(found)


def test_blockwise_attention_saves_nothing_without_gradients() -> None:
    model = build("bf16-true")
    saved: list[Tensor] = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        model(torch.randint(300, (1, QUERY_BLOCK + 1)))
    assert not saved
