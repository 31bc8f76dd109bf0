"""Which Hugging Face family holds an architecture, and a configuration in the family's words and back."""

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
MISSING_MEANS: dict[str, Any] = {  # what transformers takes where config.json says nothing
    "tie_word_embeddings": False, "attention_dropout": 0.0, "initializer_range": 0.02, "rms_norm_eps": 1e-6,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
WINDOW_UNLESS_SAID = 4096  # tokens; null says that there is none
YARN_KEYS = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"}


def choose_family(cfg: ModelConfig, wanted: str | None = None) -> str:
    """The family that computes exactly what the model computes.

    Raises:
        ConfigError: none does; every setting that stands in the way is named. Or it is not the `wanted` one.
    """
    if found := _unknown_to_all(cfg):
        raise ConfigError(found)
    if cfg.num_moe_layers:
        fitting = ["qwen3_moe"]
    elif cfg.qk_norm:
        fitting = ["qwen3"]
    else:  # transformers' Llama insists on whole heads, even where head_dim is set
        fitting = ["mistral"] if cfg.hidden_size % cfg.num_attention_heads else ["llama", "mistral"]
    if wanted is not None and wanted not in fitting:
        raise ConfigError([f"The family must be {' or '.join(fitting)} for this architecture, but is {wanted}."])
    return wanted or fitting[0]


def _unknown_to_all(cfg: ModelConfig) -> list[str]:
    needed: list[tuple[str, Any, Any]] = [
        ("norm", cfg.norm, Norm.rmsnorm.value),
        ("position", cfg.position.value, Position.rope.value),
        ("gated_mlp", cfg.gated_mlp, True),
    ]
    if cfg.num_moe_layers:
        needed += [
            ("num_shared_experts", cfg.num_shared_experts, 0),
            ("router_score", cfg.router_score.value, RouterScore.softmax.value),
            ("qk_norm", cfg.qk_norm, True),
        ]
        if cfg.balance_loss is BalanceLoss.loss_free:  # its selection bias has no place in Qwen3-MoE
            needed.append(("balance_loss", cfg.balance_loss.value, "sequence, batch, importance or none"))
    return [
        f"`{name}` must be {must} in a model that Llama, Mistral, Qwen3 or Qwen3-MoE can hold, but is {value}; "
        "train one so to export it."
        for name, value, must in needed
        if value != must
    ]


def to_huggingface(cfg: ModelConfig, family: str) -> dict[str, Any]:
    """What config.json says of the architecture. Rotary settings stand in the words of transformers 4 and of 5."""
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
    """Raises: UserError, naming everything in config.json that our model does not compute, or what is missing."""
    try:
        return _in_our_words(config)
    except KeyError as missing:
        raise UserError(f"config.json must have {missing}, but has not; the folder is not whole.") from None
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"config.json must have what transformers writes, but has another kind: {error}") from None


def _in_our_words(config: dict[str, Any]) -> ModelConfig:
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise UserError(f"`model_type` in config.json must be one of {', '.join(ARCHITECTURES)}, but is {family}.")
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if found := _unknown_to_us(config, rope):
        raise ConfigError(found)
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
    if found := type_problems(ModelConfig, settings):
        raise TypeError(" ".join(found))
    return ModelConfig(
        **settings,
        head_dim=config.get("head_dim") or (128 if family == "qwen3" else None),
        qk_norm=family.startswith("qwen3"),
        residual_init=ResidualInit.plain,
    )


def _read(config: dict[str, Any], name: str) -> Any:
    value = config.get(name)
    if value is None:
        value = MISSING_MEANS.get(name)
    if value is None:
        raise KeyError(name)
    return value


def _context(longest: int, rope: dict[str, Any]) -> dict[str, Any]:
    """Ours is the trained length and a factor; theirs is the length after stretching."""
    if rope.get("rope_type", rope.get("type", "default")) == "default":
        return {"max_position_embeddings": longest}
    original = rope.get("original_max_position_embeddings") or longest
    chosen = {name: rope[name] for name in YARN_KEYS if rope.get(name) is not None} | {"factor": rope["factor"]}
    yarn = YarnConfig(**{**chosen, "original_max_position_embeddings": original})
    stretched = longest <= original * yarn.factor
    return {"max_position_embeddings": original if stretched else longest, "rope_scaling": yarn}


def _unknown_to_us(config: dict[str, Any], rope: dict[str, Any]) -> list[str]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    window = (
        config.get("sliding_window", WINDOW_UNLESS_SAID)
        if config.get("use_sliding_window", config["model_type"] == "mistral")
        else None
    )
    longest = config.get("max_position_embeddings", 0)
    activations = [activation.value for activation in Activation]
    broken = [
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
        ("quantization_config", "there", "left out (weights in float)", bool(config.get("quantization_config"))),
    ]  # fmt: skip
    return [
        f"`{name}` in config.json must be {must} for MiniMind to compute the same, but is {value}."
        for name, value, must, is_broken in broken
        if is_broken
    ]
