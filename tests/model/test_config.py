"""The arithmetic of ModelConfig against built modules, and what it says of mistakes."""

import json
import re
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from minimind.config.schema import register
from minimind.model.config import AttentionBackend, ModelConfig, Norm, YarnConfig
from minimind.model.transformer import MiniMind
from minimind.utils.errors import ConfigError
from minimind.utils.paths import conf_dir

SHAPES = {
    "nano": None,
    "minimind_26m": 25.83,
    "minimind_104m": 104.03,
    "minimind_145m_moe": 145.03,
    "minimind_64m": 63.91,
    "minimind_198m_moe": 198.42,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "layernorm": {"norm": "layernorm", "qk_norm": True},
    "learned": {"position": "learned"},
    "ungated": {"gated_mlp": False},
    "mixture": {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 24},
    "some layers": {"num_experts": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 6},
}


def built(cfg: ModelConfig) -> MiniMind:
    with torch.device("meta"):
        return MiniMind(cfg)


@pytest.mark.parametrize("name", list(SHAPES))
def test_parameters_of_every_shape_in_conf(name: str) -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("train", overrides=[f"model={name}"]).model
    cfg = OmegaConf.to_object(node)
    assert isinstance(cfg, ModelConfig)
    assert cfg.num_parameters() == sum(parameter.numel() for parameter in built(cfg).parameters())
    if SHAPES[name] is not None:
        assert cfg.num_parameters() / 1e6 == pytest.approx(SHAPES[name], abs=0.005)
    if name == "minimind_145m_moe":
        assert cfg.num_parameters(active=True) / 1e6 == pytest.approx(91.95, abs=0.005)
    if name == "minimind_198m_moe":
        assert cfg.num_parameters(active=True) / 1e6 == pytest.approx(63.94, abs=0.005)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_parameters_of_every_switch(variant: str, tiny: Any) -> None:
    cfg = tiny(**VARIANTS[variant])
    assert cfg.num_parameters() == sum(parameter.numel() for parameter in built(cfg).parameters())


def test_active_parameters_leave_out_the_experts_not_chosen(tiny: Any) -> None:
    cfg = tiny(**VARIANTS["mixture"])
    expert = 3 * 32 * 24
    assert cfg.num_parameters() - cfg.num_parameters(active=True) == 2 * 2 * expert


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_flops_are_those_torch_counts(variant: str, tiny: Any) -> None:
    """The eager back-end also computes the scores that the mask hides: as many keys as in a window twice as long."""
    length, rows = 8, 3
    cfg = tiny(attention_backend="eager", moe_dispatch="loop", **VARIANTS[variant])
    model, ids = MiniMind(cfg), torch.randint(cfg.vocab_size, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    assert counter.get_total_flops() == rows * length * cfg.flops_per_token(2 * length - 1)


def test_swiglu_width_is_a_ratio_rounded_up_to_64_or_explicit() -> None:
    assert ModelConfig(hidden_size=512).resolved_intermediate_size == 1408  # 8/3 · 512 = 1365.3
    assert ModelConfig(hidden_size=768).resolved_intermediate_size == 2048  # 8/3 · 768, exactly
    assert ModelConfig(hidden_size=768, intermediate_ratio=torch.pi).resolved_intermediate_size == 2432
    assert ModelConfig(hidden_size=768, intermediate_size=1000).resolved_intermediate_size == 1000


def test_experts_stand_where_transformers_puts_them() -> None:
    cfg = ModelConfig(num_hidden_layers=6, num_experts=2, decoder_sparse_step=2, mlp_only_layers=[3])
    assert [cfg.is_moe_layer(layer) for layer in range(6)] == [False, True, False, False, False, True]


def test_rope_is_that_of_minimind_unless_told() -> None:
    assert (ModelConfig().rope_theta, ModelConfig().max_position_embeddings) == (1e6, 32_768)


def test_words_are_read_as_choices() -> None:
    cfg = ModelConfig(norm="layernorm", attention_backend="eager")  # type: ignore[arg-type]
    assert cfg.norm == Norm.layernorm
    assert cfg.attention_backend is AttentionBackend.eager


def test_context_is_the_trained_length_times_the_factor() -> None:
    assert ModelConfig(max_position_embeddings=100).context_length == 100
    assert ModelConfig(max_position_embeddings=100, rope_scaling=YarnConfig(8.0)).context_length == 800
    continued = ModelConfig(max_position_embeddings=800, rope_scaling=YarnConfig(8.0, 100))
    assert continued.context_length == 800  # not stretched twice


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_backend": "flash"}, "`attention_backend` must be one of sdpa, eager, but is flash."),
        ({"moe_dispatch": "magic"}, "`moe_dispatch` must be one of auto, loop, grouped, dense, but is magic."),
        ({"num_attention_heads": 6, "head_dim": 8}, "a multiple of `num_key_value_heads` (4), but is 6."),
        ({"hidden_size": 100}, "`hidden_size` must be a multiple of `num_attention_heads` (8), but is 100; change"),
        ({"head_dim": 7}, "must be even for RoPE, but is 7; set `head_dim`"),
        ({"vocab_size": 0}, "`vocab_size` must be at least 1, but is 0."),
        ({"intermediate_size": -1}, "`intermediate_size` must be at least 1, but is -1."),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, but is 1.0."),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "between 1 and `num_experts` (2), but is 3."),
        ({"num_shared_experts": 1}, "`num_shared_experts` must be 0 in a dense model, but is 1; set `num_experts`"),
        ({"num_experts": 2, "mlp_only_layers": [9]}, "`mlp_only_layers` must name layers 0 to 7, but has 9."),
        ({"num_experts": 2, "moe_dispatch": "grouped", "moe_intermediate_size": 20}, "but are 512 and 20; change"),
        ({"rope_scaling": YarnConfig(0.5)}, "`rope_scaling.factor` must be at least 1 (no scaling), but is 0.5."),
        ({"rope_scaling": YarnConfig(2.0), "position": "none"}, "`rope_scaling.factor` needs `position: rope`"),
        ({"rope_scaling": YarnConfig(2.0, beta_slow=40.0)}, "below `beta_fast` (32.0), but is 40.0."),
        ({"rope_scaling": YarnConfig(2.0, 0)}, "`rope_scaling.original_max_position_embeddings` must be at least 1"),
    ],
)
def test_a_mistake_is_named_with_its_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        ModelConfig(**{"num_key_value_heads": 4, **changes})


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        ModelConfig(num_attention_heads=6, head_dim=7, num_key_value_heads=4, dropout=2.0, num_shared_experts=1)
    assert len(raised.value.problems) == 4


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_it_comes_back_from_json(kind: str) -> None:
    cfg = ModelConfig(**VARIANTS[kind], rope_scaling=YarnConfig(1.0, 8, attention_factor=2.0), rope_theta=0.1 + 1e4)
    assert ModelConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_json_may_leave_out_and_write_whole_numbers() -> None:
    cfg = ModelConfig.from_dict({"rope_theta": 10000, "rope_scaling": {"attention_factor": 2}})
    assert (cfg.rope_theta, cfg.rope_scaling) == (1e4, YarnConfig(attention_factor=2.0))
    assert isinstance(cfg.rope_theta, float)
    assert isinstance(cfg.rope_scaling.attention_factor, float)
