"""The model's configuration, its validation, and the parameter and FLOP counts that follow from it. Torch-free."""

import math
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any, Self

from minimind.utils.errors import ConfigError
from minimind.utils.settings import from_plain, not_finite, to_plain, type_problems
from minimind.utils.user_code import load_class

IGNORED = -100  # label of a token that is not a target; torch's default `ignore_index`


class Norm(StrEnum):
    rmsnorm = "rmsnorm"
    layernorm = "layernorm"


class Position(Enum):
    rope = "rope"
    learned = "learned"
    sinusoidal = "sinusoidal"
    none = "none"


class Activation(Enum):
    silu = "silu"
    gelu = "gelu"
    relu = "relu"


class AttentionBackend(Enum):
    sdpa = "sdpa"
    eager = "eager"


class ResidualInit(Enum):
    depth_scaled = "depth_scaled"
    plain = "plain"
    zero = "zero"


class RouterScore(Enum):
    softmax = "softmax"
    sigmoid = "sigmoid"


class BalanceLoss(Enum):
    none = "none"
    sequence = "sequence"
    batch = "batch"
    importance = "importance"
    loss_free = "loss_free"


class Dispatch(Enum):
    auto = "auto"
    loop = "loop"
    grouped = "grouped"
    dense = "dense"


MAX_SIZE = 2**24  # upper bound of every size and count, except …
MAX_MODULES = dict.fromkeys(("num_hidden_layers", "num_experts", "num_shared_experts"), 2**12)  # … of these
MAX_PARAMETERS = 2**40


@dataclass
class YarnConfig:
    """Context extension by YaRN (Peng et al. 2023); `factor` 1 leaves RoPE unchanged."""

    factor: float = 1.0
    original_max_position_embeddings: int | None = None  # None: the model's `max_position_embeddings`
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None  # None: 0.1 ln(factor) + 1


@dataclass
class ModelConfig:
    """A decoder-only transformer; the settings have Hugging Face's names."""

    vocab_size: int = 6400
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    intermediate_size: int | None = None  # None: intermediate_ratio · hidden_size, rounded up to 64
    intermediate_ratio: float = 8 / 3
    hidden_act: Activation = Activation.silu
    gated_mlp: bool = True  # gated silu is SwiGLU
    norm: str = "rmsnorm"  # or layernorm, or a class of your own as module.Class, called with (size, eps)
    rms_norm_eps: float = 1e-5
    qk_norm: bool = False
    position: Position = Position.rope
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    rope_scaling: YarnConfig = field(default_factory=YarnConfig)
    attention_backend: AttentionBackend = AttentionBackend.sdpa
    dropout: float = 0.0  # of the embedding and the residual branches
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    embedding_initializer_range: float | None = None  # None: initializer_range
    residual_init: ResidualInit = ResidualInit.depth_scaled
    gradient_checkpointing: bool = False

    num_experts: int = 0  # routed experts per MoE layer; 0: a dense model
    num_experts_per_tok: int = 1
    num_shared_experts: int = 0
    moe_intermediate_size: int | None = None  # None: intermediate_size
    decoder_sparse_step: int = 1  # every n-th layer is an MoE layer …
    mlp_only_layers: list[int] = field(default_factory=list)  # … except these
    norm_topk_prob: bool = True
    router_score: RouterScore = RouterScore.softmax
    balance_loss: BalanceLoss = BalanceLoss.sequence
    router_aux_loss_coef: float = 0.01
    router_z_loss_coef: float = 0.0
    router_bias_update_rate: float = 1e-3  # loss_free only
    moe_dispatch: Dispatch = Dispatch.auto

    def __post_init__(self) -> None:
        if found := _parse_enums(self) or _type_problems(self) or _problems(self):
            raise ConfigError(found)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Inverse of `to_dict`. Raises ConfigError for unknown keys and invalid values."""
        return from_plain(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return to_plain(self)

    @property
    def resolved_head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def resolved_intermediate_size(self) -> int:
        if self.intermediate_size:
            return self.intermediate_size
        return 64 * math.ceil(self.intermediate_ratio * self.hidden_size / 64 - 1e-9)

    @property
    def resolved_moe_intermediate_size(self) -> int:
        return self.moe_intermediate_size or self.resolved_intermediate_size

    @property
    def trained_context(self) -> int:
        """Longest sequence that the positions were trained for, which YaRN extends."""
        return self.rope_scaling.original_max_position_embeddings or self.max_position_embeddings

    @property
    def context_length(self) -> int:
        """Longest sequence that the model accepts, in tokens."""
        return max(self.max_position_embeddings, int(self.trained_context * self.rope_scaling.factor))

    def is_moe_layer(self, layer: int) -> bool:
        """Whether block `layer` (counted from 0) has experts, by Qwen3-MoE's rule."""
        return (
            self.num_experts > 0 and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def num_moe_layers(self) -> int:
        return sum(self.is_moe_layer(layer) for layer in range(self.num_hidden_layers))

    def num_parameters(self, *, active: bool = False) -> int:
        """Number of parameters, or with `active` only of those used for one token."""
        norm = self._norm_parameters(self.hidden_size)
        total = self.vocab_size * self.hidden_size + norm
        total += 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        total += self.max_position_embeddings * self.hidden_size if self.position is Position.learned else 0
        per_layer = 2 * norm + self._attention_matmul()
        if self.qk_norm:
            per_layer += 2 * self._norm_parameters(self.resolved_head_dim)
        return total + self.num_hidden_layers * per_layer + self._mlp_matmul(active=active)

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs (forward and backward) per token, in a causal window of `sequence_length` tokens.

        6 per matmul weight used, and per key attended to (half the window on average) 6·N·H each for the scores and
        the weighted sum.

        Source: Chowdhery et al. 2022, appendix B.
        """
        matmul = self.num_hidden_layers * self._attention_matmul() + self._mlp_matmul(active=True)
        matmul += self.vocab_size * self.hidden_size
        keys = (sequence_length + 1) / 2
        attention = 12 * self.num_hidden_layers * self.num_attention_heads * self.resolved_head_dim * keys
        return 6 * matmul + attention

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache per token of one sequence, over all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.resolved_head_dim * bytes_per_value

    def _norm_parameters(self, size: int) -> int:
        if self.norm in set(Norm):
            return size * (2 if self.norm == Norm.layernorm else 1)
        module = load_class(self.norm, "model.norm")(size, self.rms_norm_eps)
        return sum(parameter.numel() for parameter in module.parameters())

    def _attention_matmul(self) -> int:
        query_and_output = 2 * self.num_attention_heads
        key_and_value = 2 * self.num_key_value_heads
        return self.hidden_size * self.resolved_head_dim * (query_and_output + key_and_value)

    def _mlp_matmul(self, *, active: bool) -> int:
        matrices = 3 if self.gated_mlp else 2
        dense = matrices * self.hidden_size * self.resolved_intermediate_size
        expert = matrices * self.hidden_size * self.resolved_moe_intermediate_size
        experts = (self.num_experts_per_tok if active else self.num_experts) + self.num_shared_experts
        moe = experts * expert + self.hidden_size * self.num_experts
        return self.num_moe_layers * moe + (self.num_hidden_layers - self.num_moe_layers) * dense


def _parse_enums(cfg: ModelConfig) -> list[str]:
    """Convert strings such as `position="rope"` to enum members, in place; return the problems."""
    found = []
    for choice in fields(cfg):
        kind, value = type(choice.default), getattr(cfg, choice.name)
        if not issubclass(kind, Enum) or isinstance(value, kind):
            continue
        words = [member.value for member in kind]
        if value in words:
            setattr(cfg, choice.name, kind(value))
        else:
            found.append(f"`{choice.name}` must be one of {', '.join(words)}, but is {value}.")
    return found


def _type_problems(cfg: ModelConfig) -> list[str]:
    """Values of the wrong type, NaN and infinity. Hydra checks types; a JSON file or a direct caller does not."""
    found = type_problems(ModelConfig, vars(cfg))
    if not found:
        yarn = type_problems(YarnConfig, vars(cfg.rope_scaling))
        found = [problem.replace("`", "`rope_scaling.", 1) for problem in yarn]
    return found or list(not_finite(cfg))


def _problems(cfg: ModelConfig) -> list[str]:
    """All rules that the configuration breaks."""
    if found := _size_problems(cfg):
        return found
    found = []
    found += _norm_problems(cfg) + _attention_problems(cfg) + _yarn_problems(cfg) + _moe_problems(cfg)
    for name in ("dropout", "attention_dropout"):
        if not 0 <= getattr(cfg, name) < 1:
            found.append(f"`{name}` must be at least 0 and below 1, but is {getattr(cfg, name)}.")
    if cfg.rope_theta <= 1:
        found.append(f"`rope_theta` must be above 1, but is {cfg.rope_theta}.")
    for name in ("rms_norm_eps", "initializer_range", "embedding_initializer_range", "router_aux_loss_coef",
                 "router_z_loss_coef", "router_bias_update_rate"):  # fmt: skip
        if (getattr(cfg, name) or 0) < 0:
            found.append(f"`{name}` must be at least 0, but is {getattr(cfg, name)}.")
    if not found and cfg.num_parameters() > MAX_PARAMETERS:
        found.append(f"A model must have at most {MAX_PARAMETERS:,} parameters, but has {cfg.num_parameters():,}.")
    return found


def _size_problems(cfg: ModelConfig) -> list[str]:
    """Sizes out of range. Checked first: huge ones would exhaust time or memory in the other checks."""
    found = []
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "head_dim", "intermediate_size", "moe_intermediate_size", "max_position_embeddings",
                 "decoder_sparse_step"):  # fmt: skip
        value = getattr(cfg, name)
        if value is not None and value < 1:
            found.append(f"`{name}` must be at least 1, but is {value}.")
    for field_ in fields(cfg):
        value, limit = getattr(cfg, field_.name), MAX_MODULES.get(field_.name, MAX_SIZE)
        if isinstance(value, int) and value > limit:
            found.append(f"`{field_.name}` must be at most {limit:,}, but is {value:,}.")
    if not 0 < cfg.intermediate_ratio <= MAX_SIZE:
        found.append(f"`intermediate_ratio` must be above 0 and at most {MAX_SIZE:,}, but is {cfg.intermediate_ratio}.")
    if cfg.rope_scaling.factor > MAX_SIZE:
        found.append(f"`rope_scaling.factor` must be at most {MAX_SIZE:,}, but is {cfg.rope_scaling.factor}.")
    return found


def _norm_problems(cfg: ModelConfig) -> list[str]:
    if cfg.norm in set(Norm):
        return []
    if "." not in cfg.norm:
        return [f"`norm` must be one of {', '.join(Norm)}, or a class of your own as module.Class, but is {cfg.norm}."]
    try:
        cfg._norm_parameters(cfg.hidden_size)
    except ConfigError as error:
        return error.problems
    except Exception as error:  # whatever the user's class raises
        return [f"`norm` must name a torch.nn.Module that takes (size, eps), but is {cfg.norm}: {error}."]
    return []


def _yarn_problems(cfg: ModelConfig) -> list[str]:
    found = []
    yarn = cfg.rope_scaling
    if yarn.factor < 1:
        found.append(f"`rope_scaling.factor` must be at least 1 (no scaling), but is {yarn.factor}.")
    elif cfg.context_length > MAX_SIZE:
        found.append(
            f"`rope_scaling.factor` must keep the context within {MAX_SIZE:,} tokens, but is {yarn.factor}, "
            f"which makes it {cfg.context_length:,}."
        )
    if yarn.factor != 1 and cfg.position is not Position.rope:
        found.append(f"`rope_scaling.factor` needs `position: rope`, but `position` is {cfg.position.value}.")
    if yarn.original_max_position_embeddings is not None and yarn.original_max_position_embeddings < 1:
        found.append(
            f"`rope_scaling.original_max_position_embeddings` must be at least 1, "
            f"but is {yarn.original_max_position_embeddings}; leave it out to use `max_position_embeddings`."
        )
    if yarn.attention_factor is not None and yarn.attention_factor <= 0:
        found.append(f"`rope_scaling.attention_factor` must be above 0 (or null), but is {yarn.attention_factor}.")
    if not 0 < yarn.beta_slow < yarn.beta_fast:
        found.append(
            f"`rope_scaling.beta_slow` must be above 0 and below `beta_fast` ({yarn.beta_fast}), "
            f"but is {yarn.beta_slow}."
        )
    return found


def _attention_problems(cfg: ModelConfig) -> list[str]:
    found = []
    heads, kv_heads = cfg.num_attention_heads, cfg.num_key_value_heads
    if cfg.head_dim is None and cfg.hidden_size % heads:
        found.append(
            f"`hidden_size` must be a multiple of `num_attention_heads` ({heads}), but is {cfg.hidden_size}; "
            "change one of them, or set `head_dim`."
        )
    elif cfg.resolved_head_dim < 1 or (cfg.resolved_head_dim % 2 and cfg.position is Position.rope):
        found.append(
            f"`head_dim` (hidden_size / num_attention_heads unless set) must be even for RoPE, "
            f"but is {cfg.resolved_head_dim}; set `head_dim` or change `num_attention_heads`."
        )
    if heads % kv_heads:
        found.append(f"`num_attention_heads` must be a multiple of `num_key_value_heads` ({kv_heads}), but is {heads}.")
    return found


def _moe_problems(cfg: ModelConfig) -> list[str]:
    found = []
    if cfg.num_experts < 0 or cfg.num_shared_experts < 0:
        found.append(
            f"`num_experts` and `num_shared_experts` must be at least 0, "
            f"but are {cfg.num_experts} and {cfg.num_shared_experts}."
        )
    if cfg.num_experts == 0 and cfg.num_shared_experts > 0:
        found.append(
            f"`num_shared_experts` must be 0 in a dense model, but is {cfg.num_shared_experts}; set `num_experts` too."
        )
    if cfg.num_experts > 0 and not 1 <= cfg.num_experts_per_tok <= cfg.num_experts:
        found.append(
            f"`num_experts_per_tok` must be between 1 and `num_experts` ({cfg.num_experts}), "
            f"but is {cfg.num_experts_per_tok}."
        )
    widths = (cfg.hidden_size, cfg.resolved_moe_intermediate_size)
    if cfg.num_experts > 0 and cfg.moe_dispatch is Dispatch.grouped and any(width % 8 for width in widths):
        found.append(
            f"`hidden_size` and `moe_intermediate_size` must be multiples of 8 with `moe_dispatch: grouped`, "
            f"but are {widths[0]} and {widths[1]}; change them, or use loop or auto."
        )
    for layer in cfg.mlp_only_layers:
        if not 0 <= layer < cfg.num_hidden_layers:
            found.append(f"`mlp_only_layers` must be layers from 0 to {cfg.num_hidden_layers - 1}, but has {layer}.")
    return found
