"""Fixtures for models small enough that every test of them is cheap."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minimind.model.config import ModelConfig
from minimind.model.transformer import MiniMind

Tiny = Callable[..., ModelConfig]
Build = Callable[..., MiniMind]


@pytest.fixture
def tiny() -> Tiny:
    """A two-layer configuration with weights large enough (0.3) that a wrong mask or position changes the output."""

    def make(**changes: Any) -> ModelConfig:
        small: dict[str, Any] = dict(
            vocab_size=31, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64, rope_theta=100.0, initializer_range=0.3,
        )  # fmt: skip
        return ModelConfig(**{**small, **changes})

    return make


@pytest.fixture
def build(tiny: Tiny) -> Build:
    def make(*, seed: int = 0, **changes: Any) -> MiniMind:
        torch.manual_seed(seed)
        return MiniMind(tiny(**changes)).eval()

    return make
