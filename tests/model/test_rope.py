import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from minimind.model.config import ModelConfig, YarnConfig
from minimind.model.rope import apply_rotary, attention_factor, inverse_frequencies, rotary_table, sinusoidal_table

HEAD = 16


def config(head_dim: int = HEAD, theta: float = 1e4, context: int = 64, **yarn: Any) -> ModelConfig:
    return ModelConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, num_key_value_heads=2, rope_theta=theta,
        max_position_embeddings=context, rope_scaling=YarnConfig(**yarn),
    )  # fmt: skip


def their_rotary(cfg: ModelConfig) -> LlamaRotaryEmbedding:
    yarn = cfg.rope_scaling
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if yarn.factor != 1:
        parameters |= {
            "rope_type": "yarn", "factor": yarn.factor, "beta_fast": yarn.beta_fast, "beta_slow": yarn.beta_slow,
            "original_max_position_embeddings": cfg.trained_context, "attention_factor": yarn.attention_factor,
        }  # fmt: skip
    return LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=cfg.hidden_size,
            num_attention_heads=4,
            rope_parameters=parameters,
            max_position_embeddings=cfg.context_length,
        )
    )


def paper_rotary(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Su et al. 2021, section 3.2: neighbours (x_2i, x_2i+1) are one complex number, rotated by its angle."""
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    rotation = torch.polar(torch.ones(()), positions[:, None] * frequencies)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotation).flatten(-2)


def test_rotate_half_equals_the_papers_complex_form_up_to_a_permutation() -> None:
    torch.manual_seed(0)
    cfg, positions = config(), torch.arange(20)
    x, q_rows, k_rows = torch.randn(20, 64), torch.randn(HEAD, 64), torch.randn(HEAD, 64)
    interleaved = torch.arange(HEAD).view(2, -1).t().flatten()  # row i + H/2·j moves to 2i + j
    cos, sin = rotary_table(cfg, positions[None])
    ours = [apply_rotary((x @ rows.t())[None, None], cos, sin)[0, 0] for rows in (q_rows, k_rows)]
    theirs = [paper_rotary(x @ rows[interleaved].t(), positions, cfg.rope_theta) for rows in (q_rows, k_rows)]
    for half, pairs in zip(ours, theirs, strict=True):
        torch.testing.assert_close(half[:, interleaved], pairs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[0] @ ours[1].t(), theirs[0] @ theirs[1].t(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_inner_products_depend_only_on_relative_position(factor: float) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, HEAD), torch.randn(1, 1, 1, HEAD)
    cfg = config(factor=factor)

    def product(query: int, key: int) -> float:
        q_rotary, k_rotary = (rotary_table(cfg, torch.tensor([[position]])) for position in (query, key))
        return float((apply_rotary(q, *q_rotary) * apply_rotary(k, *k_rotary)).sum())

    for distance in (0, 1, 7):
        assert product(distance, 0) == pytest.approx(product(distance + 400, 400), abs=1e-3)
    assert abs(product(3, 0) - product(0, 3)) > 1e-2  # but the order matters


def test_rotation_preserves_norms_and_is_the_identity_at_position_zero() -> None:
    x = torch.randn(2, 4, 9, HEAD)
    rotated = apply_rotary(x, *rotary_table(config(), torch.arange(9)[None]))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [8, 64])
def test_frequencies_and_rotation_match_transformers(head_dim: int, theta: float) -> None:
    cfg = config(head_dim, theta)
    torch.testing.assert_close(inverse_frequencies(cfg), their_rotary(cfg).inv_freq, rtol=1e-6, atol=0)
    q, k = torch.randn(2, 4, 9, head_dim), torch.randn(2, 2, 9, head_dim)
    positions = torch.arange(9)[None]
    cos, sin = rotary_table(cfg, positions)
    expected = apply_rotary_pos_emb(q, k, *their_rotary(cfg)(q, positions))
    torch.testing.assert_close(apply_rotary(q, cos, sin), expected[0])
    torch.testing.assert_close(apply_rotary(k, cos, sin), expected[1])


@pytest.mark.parametrize(
    ("head_dim", "theta", "yarn"),
    [
        (64, 1e6, {"factor": 16.0, "original_max_position_embeddings": 2048}),
        (128, 1e4, {"factor": 4.0, "original_max_position_embeddings": 4096}),
        (96, 5e5, {"factor": 2.5, "beta_fast": 24.0, "beta_slow": 2.0}),
        (HEAD, 1e4, {"factor": 8.0}),
        (HEAD, 1e4, {"factor": 8.0, "attention_factor": 1.25}),
    ],
)
def test_yarn_matches_transformers(head_dim: int, theta: float, yarn: dict[str, Any]) -> None:
    cfg = config(head_dim, theta, 1024, **yarn)
    theirs = their_rotary(cfg)
    torch.testing.assert_close(inverse_frequencies(cfg), theirs.inv_freq, rtol=1e-6, atol=0)
    assert attention_factor(cfg.rope_scaling) == pytest.approx(theirs.attention_scaling, rel=1e-6)


def test_yarn_keeps_fast_pairs_and_slows_slow_ones_by_the_factor() -> None:
    plain, stretched = (
        inverse_frequencies(config(128, 1e4, 4096)),
        inverse_frequencies(config(128, 1e4, 4096, factor=8)),
    )
    turns = 4096 * plain / (2 * math.pi)  # within the trained context
    ratio = plain / stretched
    torch.testing.assert_close(ratio[turns > 64], torch.ones_like(ratio[turns > 64]))
    torch.testing.assert_close(ratio[turns < 0.5], torch.full_like(ratio[turns < 0.5], 8.0))
    assert (ratio.diff() >= -1e-5).all()


def test_original_length_defaults_to_max_position_embeddings() -> None:
    explicit = inverse_frequencies(config(64, 1e4, 999_999, factor=8.0, original_max_position_embeddings=2048))
    assert torch.equal(inverse_frequencies(config(64, 1e4, 2048, factor=8.0)), explicit)


def test_rotary_table_has_no_maximum_length() -> None:
    cos, _ = rotary_table(config(context=64), torch.tensor([[1_000_000]]))
    assert cos.shape == (1, 1, 1, HEAD)
    torch.testing.assert_close(cos[0, 0, 0, 0], torch.tensor(math.cos(1_000_000)), rtol=0, atol=1e-3)


def test_sinusoidal_table_matches_the_paper() -> None:
    table = sinusoidal_table(torch.arange(5)[None], 8)[0]
    for position in range(5):
        angles = torch.tensor([position / 10000 ** (i / 4) for i in range(4)])
        torch.testing.assert_close(table[position], torch.cat((angles.sin(), angles.cos())))


def test_gradient_is_the_rotation_by_the_opposite_angle() -> None:
    torch.manual_seed(0)
    x, direction = torch.randn(2, 3, 9, HEAD, requires_grad=True), torch.randn(2, 3, 9, HEAD)
    cos, sin = rotary_table(config(factor=4.0), torch.arange(9)[None])
    first, second = x.chunk(2, dim=-1)
    plain = x * cos + torch.cat((-second, first), dim=-1) * sin
    (found,) = torch.autograd.grad(apply_rotary(x, cos, sin), x, direction)
    torch.testing.assert_close(found, *torch.autograd.grad(plain, x, direction))
    rotated = apply_rotary(x, cos, sin)
    assert "Rotation" in type(rotated.grad_fn).__name__
    torch.testing.assert_close(rotated, plain)
