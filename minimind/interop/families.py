"""Which Hugging Face family can represent an architecture, and conversion to and from its config.json."""

from typing import Any

from minimind.model.config import (
    Activation,
    BalanceLoss,
    ModelConfig,
    Norm,
    Position,
    ResidualInit,
    RouterScore,
    YarnConfig,
)
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.settings import type_problems

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
SAME_NAME = (  # in ModelConfig and in config.json
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps",
    "attention_dropout", "tie_word_embeddings", "initializer_range",
)  # fmt: skip
SAME_NAME_MOE = (
    "num_experts", "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob",
    "router_aux_loss_coef",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {  # of transformers, for keys that config.json leaves out
    "tie_word_embeddings": False, "attention_dropout": 0.0, "initializer_range": 0.02, "rms_norm_eps": 1e-6,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
DEFAULT_SLIDING_WINDOW = 4096  # tokens; null disables it
YARN_KEYS = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"}


def choose_family(cfg: ModelConfig, wanted: str | None = None) -> str:
    """The family that computes exactly what the model computes.

    Raises:
        ConfigError: no family does (lists every unsupported setting), or not the `wanted` one.
    """
    if unsupported := _unsupported_by_families(cfg):
        raise ConfigError(unsupported)
    if cfg.num_moe_layers:
        matching = ["qwen3_moe"]
    elif cfg.qk_norm:
        matching = ["qwen3"]
    else:  # transformers' Llama requires hidden_size to be a multiple of the heads, even if head_dim is set
        matching = ["mistral"] if cfg.hidden_size % cfg.num_attention_heads else ["llama", "mistral"]
    if wanted is not None and wanted not in matching:
        raise ConfigError([f"The family must be {' or '.join(matching)} for this architecture, but is {wanted}."])
    return wanted or matching[0]


def _unsupported_by_families(cfg: ModelConfig) -> list[str]:
    required: list[tuple[str, Any, Any]] = [
        ("norm", cfg.norm, Norm.rmsnorm.value),
        ("position", cfg.position.value, Position.rope.value),
        ("gated_mlp", cfg.gated_mlp, True),
    ]
    if cfg.num_moe_layers:
        required += [
            ("num_shared_experts", cfg.num_shared_experts, 0),
            ("router_score", cfg.router_score.value, RouterScore.softmax.value),
            ("qk_norm", cfg.qk_norm, True),
        ]
        if cfg.balance_loss is BalanceLoss.loss_free:  # Qwen3-MoE cannot store its selection bias
            required.append(("balance_loss", cfg.balance_loss.value, "sequence, batch, importance or none"))
    return [
        f"`{name}` must be {expected} to export a model as Llama, Mistral, Qwen3 or Qwen3-MoE, but is {value}; "
        "train a model with that setting to export it."
        for name, value, expected in required
        if value != expected
    ]


def to_huggingface(cfg: ModelConfig, family: str) -> dict[str, Any]:
    """The architecture as in config.json. Rotary settings are written in the formats of both transformers 4 and 5."""
    rope: dict[str, Any] = {"rope_type": "default"}
    yarn = cfg.rope_scaling
    if yarn.factor != 1:
        rope = {
            "rope_type": "yarn", "factor": yarn.factor, "original_max_position_embeddings": cfg.trained_context,
            "beta_fast": yarn.beta_fast, "beta_slow": yarn.beta_slow,
        }  # fmt: skip
        if yarn.attention_factor is not None:
            rope["attention_factor"] = yarn.attention_factor
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        **{name: getattr(cfg, name) for name in SAME_NAME},
        "head_dim": cfg.resolved_head_dim,
        "intermediate_size": cfg.resolved_intermediate_size,
        "hidden_act": cfg.hidden_act.value,
        "max_position_embeddings": cfg.context_length,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": None if yarn.factor == 1 else rope,
        "rope_parameters": {**rope, "rope_theta": cfg.rope_theta},
        "attention_bias": False,
        "use_cache": True,
    }
    if family == "llama":
        config["mlp_bias"] = False
    else:
        config["sliding_window"] = None
    if family == "qwen3_moe":
        config |= {name: getattr(cfg, name) for name in SAME_NAME_MOE}
        config["moe_intermediate_size"] = cfg.resolved_moe_intermediate_size
    return config


def from_huggingface(config: dict[str, Any]) -> ModelConfig:
    """Raises: UserError, listing everything in config.json that our model does not support, or a missing key."""
    try:
        return _to_model_config(config)
    except KeyError as missing:
        raise UserError(f"config.json must have {missing}, but does not; the folder is incomplete.") from None
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"config.json must have values of the types that transformers writes: {error}") from None


def _to_model_config(config: dict[str, Any]) -> ModelConfig:
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise UserError(f"`model_type` in config.json must be one of {', '.join(ARCHITECTURES)}, but is {family}.")
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if unsupported := _unsupported_by_us(config, rope):
        raise ConfigError(unsupported)
    settings = {name: _read(config, name) for name in SAME_NAME if name != "num_key_value_heads"}
    settings["num_key_value_heads"] = config.get("num_key_value_heads") or settings["num_attention_heads"]
    settings |= {name: config[name] for name in ("intermediate_size", "hidden_act")}
    settings["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    settings |= _context(config["max_position_embeddings"], rope)
    if family == "qwen3_moe":
        names = {"num_experts": config.get("num_experts", config.get("num_local_experts")), **config}
        settings |= {name: _read(names, name) for name in SAME_NAME_MOE}
        settings["moe_intermediate_size"] = config["moe_intermediate_size"]
        settings["balance_loss"] = BalanceLoss.batch
    if wrong := type_problems(ModelConfig, settings):
        raise TypeError(" ".join(wrong))
    return ModelConfig(
        **settings,
        head_dim=config.get("head_dim") or (128 if family == "qwen3" else None),
        qk_norm=family.startswith("qwen3"),
        residual_init=ResidualInit.plain,
    )


def _read(config: dict[str, Any], name: str) -> Any:
    value = config.get(name)
    if value is None:
        value = DEFAULTS.get(name)
    if value is None:
        raise KeyError(name)
    return value


def _context(longest: int, rope: dict[str, Any]) -> dict[str, Any]:
    """We store the trained length and a factor; config.json stores the length after scaling."""
    if rope.get("rope_type", rope.get("type", "default")) == "default":
        return {"max_position_embeddings": longest}
    original = rope.get("original_max_position_embeddings") or longest
    given = {name: rope[name] for name in YARN_KEYS if rope.get(name) is not None} | {"factor": rope["factor"]}
    yarn = YarnConfig(**{**given, "original_max_position_embeddings": original})
    scaled = longest <= original * yarn.factor
    return {"max_position_embeddings": original if scaled else longest, "rope_scaling": yarn}


def _unsupported_by_us(config: dict[str, Any], rope: dict[str, Any]) -> list[str]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    window = (
        config.get("sliding_window", DEFAULT_SLIDING_WINDOW)
        if config.get("use_sliding_window", config["model_type"] == "mistral")
        else None
    )
    longest = config.get("max_position_embeddings", 0)
    activations = [activation.value for activation in Activation]
    rules = [
        ("attention_bias", config.get("attention_bias"), "false", bool(config.get("attention_bias"))),
        ("mlp_bias", config.get("mlp_bias"), "false", bool(config.get("mlp_bias"))),
        ("sliding_window", window, f"null or at least `max_position_embeddings` ({longest})",
         window is not None and window < longest),
        ("hidden_act", config.get("hidden_act"), f"one of {', '.join(activations)}",
         config.get("hidden_act", "silu") not in activations),
        ("rope_type", kind, "default or yarn", kind not in ("default", "yarn")),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", config.get("partial_rotary_factor")), "1",
         (rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1) != 1),
        ("mscale", rope.get("mscale"), "left out", bool(rope.get("mscale") and rope.get("mscale_all_dim"))),
        ("truncate", rope.get("truncate"), "left out", rope.get("truncate") is False),
        ("quantization_config", "present", "left out (float weights)", bool(config.get("quantization_config"))),
    ]  # fmt: skip
    return [
        f"`{name}` in config.json must be {expected} for MiniMind to compute the same, but is {value}."
        for name, value, expected, is_violated in rules
        if is_violated
    ]
