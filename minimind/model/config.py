"""What a model is: its sizes, its switches, and the arithmetic that follows from them. No torch here."""

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Self

from minimind.utils.errors import ConfigError
from minimind.utils.settings import from_plain, not_finite, to_plain, type_problems

IGNORED = -100  # a label that is no target: torch's own default for cross-entropy


class Norm(Enum):
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


LARGEST = 2**24  # of any size or count …
MOST = dict.fromkeys(("num_hidden_layers", "num_experts", "num_shared_experts"), 2**12)  # … and of modules
LARGEST_MODEL = 2**40  # parameters


@dataclass
class YarnConfig:
    """Context extension by YaRN (Peng et al. 2023); `factor` 1 leaves RoPE as it was trained."""

    factor: float = 1.0
    original_max_position_embeddings: int | None = None  # None: the model's `max_position_embeddings`
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None  # None: 0.1 ln(factor) + 1


@dataclass
class ModelConfig:
    """A decoder-only transformer, named as Hugging Face names its parts."""

    vocab_size: int = 6400
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    intermediate_size: int | None = None  # None: intermediate_ratio · hidden_size, rounded up to 64
    intermediate_ratio: float = 8 / 3
    hidden_act: Activation = Activation.silu
    gated_mlp: bool = True  # silu and gated: SwiGLU
    norm: Norm = Norm.rmsnorm
    rms_norm_eps: float = 1e-5
    qk_norm: bool = False
    position: Position = Position.rope
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    rope_scaling: YarnConfig = field(default_factory=YarnConfig)
    attention_backend: AttentionBackend = AttentionBackend.sdpa
    dropout: float = 0.0  # embedding and residual branches
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    embedding_initializer_range: float | None = None  # None: as initializer_range
    residual_init: ResidualInit = ResidualInit.depth_scaled
    gradient_checkpointing: bool = False

    num_experts: int = 0  # routed experts; 0: a dense model
    num_experts_per_tok: int = 1
    num_shared_experts: int = 0
    moe_intermediate_size: int | None = None  # None: as intermediate_size
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
        if found := _read_words(self) or _unlike_numbers(self) or problems(self):
            raise ConfigError(found)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `to_dict`; raises ConfigError for unknown keys and for values that no model has."""
        return from_plain(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """In plain types, as JSON has them."""
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
        """Tokens of the longest text the positions were trained for: what YaRN stretches."""
        return self.rope_scaling.original_max_position_embeddings or self.max_position_embeddings

    @property
    def context_length(self) -> int:
        """Tokens of the longest text the model may see."""
        return max(self.max_position_embeddings, int(self.trained_context * self.rope_scaling.factor))

    def is_moe_layer(self, layer: int) -> bool:
        """Whether block `layer` (counted from 0) holds experts; the rule is Qwen3-MoE's."""
        return (
            self.num_experts > 0 and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def num_moe_layers(self) -> int:
        return sum(self.is_moe_layer(layer) for layer in range(self.num_hidden_layers))

    def num_parameters(self, *, active: bool = False) -> int:
        """All parameters, or with `active` only those that one token passes through."""
        norm = self.hidden_size * (2 if self.norm is Norm.layernorm else 1)
        total = self.vocab_size * self.hidden_size + norm
        total += 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        total += self.max_position_embeddings * self.hidden_size if self.position is Position.learned else 0
        per_layer = 2 * norm + self._attention_matmul()
        if self.qk_norm:
            per_layer += 2 * self.resolved_head_dim * (2 if self.norm is Norm.layernorm else 1)
        return total + self.num_hidden_layers * per_layer + self._mlp_matmul(active=active)

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs (forward and backward) of one token in a causal window of that many tokens.

        6 for each matmul weight used, and 6·N·H for each key attended to (half the window on average),
        twice over: scores and the weighted sum (Chowdhery et al. 2022, appendix B).
        """
        matmul = self.num_hidden_layers * self._attention_matmul() + self._mlp_matmul(active=True)
        matmul += self.vocab_size * self.hidden_size
        keys = (sequence_length + 1) / 2
        attention = 12 * self.num_hidden_layers * self.num_attention_heads * self.resolved_head_dim * keys
        return 6 * matmul + attention

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """What the KV cache stores for one token of one sequence, over all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.resolved_head_dim * bytes_per_value

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


def _read_words(cfg: ModelConfig) -> list[str]:
    """Turns `norm="rmsnorm"` into `Norm.rmsnorm` and the like, in place; returns complaints about unknown words."""
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


def _unlike_numbers(cfg: ModelConfig) -> list[str]:
    """What would make the rules below meaningless, and comes from a JSON file or a caller rather than from Hydra."""
    found = type_problems(ModelConfig, vars(cfg))
    if not found:
        yarn = type_problems(YarnConfig, vars(cfg.rope_scaling))
        found = [complaint.replace("`", "`rope_scaling.", 1) for complaint in yarn]
    return found or list(not_finite(cfg))


def problems(cfg: ModelConfig) -> list[str]:
    """Every rule the configuration breaks, each as: what must hold, the value, the remedy."""
    if found := _size_problems(cfg):
        return found
    found = []
    found += _attention_problems(cfg) + _yarn_problems(cfg) + _moe_problems(cfg)
    for name in ("dropout", "attention_dropout"):
        if not 0 <= getattr(cfg, name) < 1:
            found.append(f"`{name}` must be at least 0 and below 1, but is {getattr(cfg, name)}.")
    if cfg.rope_theta <= 1:
        found.append(f"`rope_theta` must be above 1, but is {cfg.rope_theta}.")
    for name in ("rms_norm_eps", "initializer_range", "embedding_initializer_range", "router_aux_loss_coef",
                 "router_z_loss_coef", "router_bias_update_rate"):  # fmt: skip
        if (getattr(cfg, name) or 0) < 0:
            found.append(f"`{name}` must be at least 0, but is {getattr(cfg, name)}.")
    if not found and cfg.num_parameters() > LARGEST_MODEL:
        found.append(f"A model must have at most {LARGEST_MODEL:,} parameters, but has {cfg.num_parameters():,}.")
    return found


def _size_problems(cfg: ModelConfig) -> list[str]:
    """Sizes that no model has would take for ever, or all memory, before anything else could complain."""
    found = []
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "head_dim", "intermediate_size", "moe_intermediate_size", "max_position_embeddings",
                 "decoder_sparse_step"):  # fmt: skip
        value = getattr(cfg, name)
        if value is not None and value < 1:
            found.append(f"`{name}` must be at least 1, but is {value}.")
    for field_ in fields(cfg):
        value, most = getattr(cfg, field_.name), MOST.get(field_.name, LARGEST)
        if isinstance(value, int) and value > most:
            found.append(f"`{field_.name}` must be at most {most:,}, but is {value:,}.")
    if not 0 < cfg.intermediate_ratio <= LARGEST:
        found.append(f"`intermediate_ratio` must be above 0 and at most {LARGEST:,}, but is {cfg.intermediate_ratio}.")
    if cfg.rope_scaling.factor > LARGEST:
        found.append(f"`rope_scaling.factor` must be at most {LARGEST:,}, but is {cfg.rope_scaling.factor}.")
    return found


def _yarn_problems(cfg: ModelConfig) -> list[str]:
    found = []
    yarn = cfg.rope_scaling
    if yarn.factor < 1:
        found.append(f"`rope_scaling.factor` must be at least 1 (no scaling), but is {yarn.factor}.")
    elif cfg.context_length > LARGEST:
        found.append(
            f"`rope_scaling.factor` must keep the context within {LARGEST:,} tokens, but is {yarn.factor}, "
            f"which makes it {cfg.context_length:,}."
        )
    if yarn.factor != 1 and cfg.position is not Position.rope:
        found.append(f"`rope_scaling.factor` needs `position: rope`, but `position` is {cfg.position.value}.")
    if yarn.original_max_position_embeddings is not None and yarn.original_max_position_embeddings < 1:
        found.append(
            f"`rope_scaling.original_max_position_embeddings` must be at least 1, "
            f"but is {yarn.original_max_position_embeddings}; leave it out to take `max_position_embeddings`."
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
            found.append(f"`mlp_only_layers` must name layers 0 to {cfg.num_hidden_layers - 1}, but has {layer}.")
    return found
