"""The whole model: embedding → pre-norm residual blocks of attention and MLP (or MoE) → norm → output head."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minimind.model.attention import Attention, Rotary, attention_mask
from minimind.model.config import BalanceLoss, ModelConfig, Position, ResidualInit, YarnConfig
from minimind.model.kv_cache import KVCache
from minimind.model.linear import Linear
from minimind.model.losses import updated_selection_bias
from minimind.model.mlp import MLP
from minimind.model.moe import Experts, MoE, Router, Routing
from minimind.model.norm import LayerNorm, RMSNorm, build_norm
from minimind.model.rope import rotary_table, sinusoidal_table
from minimind.utils.errors import UserError


class Output(NamedTuple):
    logits: Tensor  # (B, T, V)
    routings: list[Routing]  # one per MoE layer


class Block(nn.Module):
    """Attention, then MLP or MoE, each with a norm before it and a residual connection around it."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(cfg.norm, cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.post_attention_layernorm = build_norm(cfg.norm, cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp = MoE(cfg) if cfg.is_moe_layer(layer) else MLP(cfg, cfg.resolved_intermediate_size)
        self.dropout = nn.Dropout(cfg.dropout) if cfg.dropout else nn.Identity()

    def forward(
        self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, slots: Tensor, cache: KVCache | None
    ) -> tuple[Tensor, Routing | None]:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotary, mask, slots, cache))
        out, routing = self.mlp(self.post_attention_layernorm(x)), None
        if isinstance(out, tuple):
            out, routing = out
        return x + self.dropout(out), routing


class Decoder(nn.Module):
    """The model without its output head: token ids (B, T) → hidden states (B, T, D)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.config = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        learned = cfg.position is Position.learned
        self.embed_positions = nn.Embedding(cfg.max_position_embeddings, cfg.hidden_size) if learned else None
        self.dropout = nn.Dropout(cfg.dropout) if cfg.dropout else nn.Identity()
        self.layers = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.num_hidden_layers))
        self.norm = build_norm(cfg.norm, cfg.hidden_size, cfg.rms_norm_eps)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, mask: Tensor | None, slots: Tensor, cache: KVCache | None
    ) -> tuple[Tensor, list[Routing]]:
        x = self._embed(input_ids)  # (B, T, D)
        if self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        elif self.config.position is Position.sinusoidal:
            x = x + sinusoidal_table(position_ids, self.config.hidden_size).to(x.dtype)
        x = self.dropout(x)
        rotary = rotary_table(self.config, position_ids) if self.config.position is Position.rope else None
        routings = []
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training:
                x, routing = checkpoint(layer, x, rotary, mask, slots, cache, use_reentrant=False)
            else:
                x, routing = layer(x, rotary, mask, slots, cache)
            if routing is not None:
                routings.append(routing)
        return self.norm(x), routings

    def _embed(self, input_ids: Tensor) -> Tensor:
        """Embed the ids. Out-of-vocabulary ids raise only on a CPU: checking them on a GPU would synchronize."""
        try:
            return self.embed_tokens(input_ids)
        except IndexError:
            size = self.config.vocab_size
            out_of_vocabulary = input_ids[(input_ids < 0) | (input_ids >= size)][0].item()
            raise UserError(
                f"Token ids must be from 0 to {size - 1} (the model's vocabulary), but one is {out_of_vocabulary}; "
                "encode the text with the model's own tokenizer."
            ) from None


class MiniMind(nn.Module):
    """A causal language model with Hugging Face's parameter names (`model.layers.0.self_attn.q_proj.weight`)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.config = cfg
        self.model = Decoder(cfg)
        self.lm_head = Linear(cfg.hidden_size, cfg.vocab_size)
        self._tie_head()
        self.init_weights()

    def _tie_head(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Implements `.to()` and the like. Leaving the meta device creates new parameters, which unties the head."""
        super()._apply(fn, recurse)
        self._tie_head()
        return self

    def update_router_bias(self, load: Tensor, keep: Tensor) -> None:
        """Update the routers' selection biases after an optimizer step, if the model uses loss-free balancing.

        Args:
            load: (MoE layers, E) how many tokens of the step chose each expert.
            keep: () bool, True if the step was skipped and the biases must stay unchanged.
        """
        if self.config.balance_loss is not BalanceLoss.loss_free:
            return
        routers = [layer.mlp.gate for layer in self.model.layers if isinstance(layer.mlp, MoE)]
        for router, layer_load in zip(routers, load, strict=True):
            bias = router.selection_bias
            updated = updated_selection_bias(bias, layer_load, self.config.router_bias_update_rate)
            bias.copy_(torch.where(keep, bias, updated))

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which token ids must be."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, regardless of autocast."""
        return self.lm_head.weight.dtype

    def set_rope_scaling(self, yarn: YarnConfig) -> None:
        """Extend the context with YaRN, or undo that (`factor` 1); the weights do not change."""
        self.config = self.model.config = replace(self.config, rope_scaling=yarn)

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        padding_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """Next-token logits after each of `input_ids` (B, T).

        Args:
            position_ids: (B or 1, T) for the position embeddings; None: 0 … T-1, continuing from `cache`.
            document_ids: (B, T) document of each token; tokens attend only within their own document.
            padding_mask: (B, T) False where the token is padding.
            cache: the tokens so far. The new ones are written to it, but count only after `cache.advance`.

        Raises:
            UserError: an id is out of vocabulary (on a CPU), or the sequence is longer than the learned positions.
            ValueError: the cache is full.
        """
        slots, mask = self._slots_and_mask(input_ids, document_ids, padding_mask, cache)
        position_ids = slots if position_ids is None else position_ids
        hidden, routings = self.model(input_ids, position_ids, mask, slots, cache)
        return Output(self.lm_head(hidden), routings)

    def _slots_and_mask(
        self, input_ids: Tensor, document_ids: Tensor | None, padding_mask: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """Slots of the new tokens among the keys, (B or 1, T), and their attention mask; None: plain causal."""
        num_tokens = input_ids.shape[1]
        num_keys = num_tokens if cache is None else cache.max_length + num_tokens
        limit = self.config.max_position_embeddings
        if self.config.position is Position.learned and num_keys > limit:
            raise UserError(
                f"With learned positions a sequence must have at most `max_position_embeddings` ({limit}) tokens, "
                f"but has {num_keys}; shorten it, or train with `position: rope`."
            )
        if cache is None:
            slots = torch.arange(num_tokens, device=input_ids.device)[None]  # (1, T)
            causal = document_ids is None and padding_mask is None
        else:
            slots = cache.next_slots(num_tokens)  # (B, T)
            document_ids, padding_mask = cache.write_masks(slots, document_ids, padding_mask)
            # no explicit mask for sequences of equal length: a prefill is causal, a single token attends to all keys
            causal = not cache.ragged and not cache.masked and (num_tokens == 1 or cache.max_length == 0)
        if causal:
            return slots, None
        return slots, attention_mask(slots, num_keys, document_ids=document_ids, padding_mask=padding_mask)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize all weights.

        Matrices are normal with standard deviation `initializer_range`, token embeddings with
        `embedding_initializer_range` if it is set. Projections that end a residual branch are scaled down by
        √(2 · layers), the square root of the number of branches (Radford et al. 2019), or start at zero; see
        `residual_init`. Norms start as the identity.
        """
        cfg = self.config
        residual_std = {
            ResidualInit.depth_scaled: cfg.initializer_range / math.sqrt(2 * cfg.num_hidden_layers),
            ResidualInit.plain: cfg.initializer_range,
            ResidualInit.zero: 0.0,
        }[cfg.residual_init]
        for name, module in self.named_modules():
            if isinstance(module, RMSNorm | LayerNorm):
                module.weight.fill_(1.0)
                if isinstance(module, LayerNorm):
                    module.bias.zero_()
            elif isinstance(module, Experts):
                module.gate_up_proj.normal_(0, cfg.initializer_range)
                module.down_proj.normal_(0, residual_std)
            elif isinstance(module, nn.Embedding):
                token_std = cfg.embedding_initializer_range if module is self.model.embed_tokens else None
                module.weight.normal_(0, cfg.initializer_range if token_std is None else token_std)
            elif module is self.lm_head and cfg.tie_word_embeddings:
                pass  # shared with the embedding
            elif isinstance(module, Linear | Router):
                ends_branch = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0, residual_std if ends_branch else cfg.initializer_range)
                if isinstance(module, Router) and module.selection_bias is not None:
                    module.selection_bias.zero_()
