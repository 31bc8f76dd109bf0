"""The whole model: embedding → N × (attention, MLP or MoE; each with norm before and residual around) → head."""

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
from minimind.model.losses import updated_bias
from minimind.model.mlp import MLP
from minimind.model.moe import Experts, MoE, Router, Routing
from minimind.model.norm import LayerNorm, RMSNorm, build_norm
from minimind.model.rope import rotary_table, sinusoidal_table
from minimind.utils.errors import UserError


class Output(NamedTuple):
    logits: Tensor  # (B, T, V)
    routings: list[Routing]  # one per MoE layer


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(cfg.norm, cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.post_attention_layernorm = build_norm(cfg.norm, cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp = MoE(cfg) if cfg.is_moe_layer(layer) else MLP(cfg, cfg.resolved_intermediate_size)
        self.dropout = nn.Dropout(cfg.dropout) if cfg.dropout else nn.Identity()

    def forward(
        self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, position_ids: Tensor, cache: KVCache | None
    ) -> tuple[Tensor, Routing | None]:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotary, mask, position_ids, cache))
        out, routing = self.mlp(self.post_attention_layernorm(x)), None
        if isinstance(out, tuple):
            out, routing = out
        return x + self.dropout(out), routing


class Decoder(nn.Module):
    """Everything but the head: token ids (B, T) → hidden states (B, T, D)."""

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
        self, input_ids: Tensor, position_ids: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, list[Routing]]:
        x = self._embed(input_ids)  # (B, T, D)
        if self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        elif self.config.position is Position.sinusoidal:
            x = x + sinusoidal_table(position_ids, self.config.hidden_size).to(x.dtype)
        x = self.dropout(x)
        rotary = rotary_table(self.config, position_ids) if self.config.position is Position.rope else None
        places = position_ids if cache is None else cache.positions(input_ids.shape[1])
        routings = []
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training:
                x, routing = checkpoint(layer, x, rotary, mask, places, cache, use_reentrant=False)
            else:
                x, routing = layer(x, rotary, mask, places, cache)
            if routing is not None:
                routings.append(routing)
        return self.norm(x), routings

    def _embed(self, input_ids: Tensor) -> Tensor:
        """A GPU asserts what a CPU raises: to look at the ids would wait for it."""
        try:
            return self.embed_tokens(input_ids)
        except IndexError:
            size = self.config.vocab_size
            outside = input_ids[(input_ids < 0) | (input_ids >= size)][0].item()
            raise UserError(
                f"Token ids must be from 0 to {size - 1} (the model's vocabulary), but one is {outside}; "
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
        """Behind `.to()` and the like: leaving the meta device makes each parameter anew, which unties the head."""
        super()._apply(fn, recurse)
        self._tie_head()
        return self

    def update_router_bias(self, load: Tensor, keep: Tensor) -> None:
        """Loss-free balancing after an optimizer step; does nothing for other models.

        Args:
            load: (layers, E) how many tokens of the step chose each expert.
            keep: () bool, True where the step was skipped.
        """
        if self.config.balance_loss is not BalanceLoss.loss_free:
            return
        routers = [layer.mlp.gate for layer in self.model.layers if isinstance(layer.mlp, MoE)]
        for router, layer_load in zip(routers, load, strict=True):
            bias = router.selection_bias
            updated = updated_bias(bias, layer_load, self.config.router_bias_update_rate)
            bias.copy_(torch.where(keep, bias, updated))

    @property
    def device(self) -> torch.device:
        """The device of the model's own weights, where token ids must be."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's own weights, whatever autocast computes in."""
        return self.lm_head.weight.dtype

    def set_rope_scaling(self, yarn: YarnConfig) -> None:
        """Stretches the context by YaRN, or no longer; the weights stay as they are."""
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
        """Logits of the next token after each of `input_ids` (B, T).

        Args:
            position_ids: (B or 1, T); default 0 … T-1, or where the cache stands.
            document_ids: (B, T) number of the document each token belongs to; none looks into another.
            padding_mask: (B, T) False where the token is padding.
            cache: what came before; the new tokens are written to it, with their documents and padding. They count
                only once the caller says so: `cache.advance`.

        Raises:
            UserError: an id is outside the vocabulary (on a CPU), or the text longer than the learned positions.
            ValueError: the cache is full.
        """
        places, mask = self._places_and_mask(input_ids, document_ids, padding_mask, cache)
        position_ids = places if position_ids is None else position_ids
        hidden, routings = self.model(input_ids, position_ids, mask, cache)
        return Output(self.lm_head(hidden), routings)

    def _places_and_mask(
        self, input_ids: Tensor, document_ids: Tensor | None, padding_mask: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """Where the new tokens stand among the keys, (B or 1, T), and whom they may look at; None: all before them."""
        num_tokens = input_ids.shape[1]
        num_keys = num_tokens if cache is None else cache.max_length + num_tokens
        longest = self.config.max_position_embeddings
        if self.config.position is Position.learned and num_keys > longest:
            raise UserError(
                f"A text must be at most as long as the learned positions, `max_position_embeddings` "
                f"({longest} tokens), but has {num_keys}; shorten it, or train with rope."
            )
        if cache is None:
            places = torch.arange(num_tokens, device=input_ids.device)[None]  # (1, T)
            plain = document_ids is None and padding_mask is None
        else:
            places = cache.positions(num_tokens)  # (B, T)
            document_ids, padding_mask = cache.remember(places, document_ids, padding_mask)
            # rows of one length need no mask in a first step (causal) or for one token (everything)
            plain = not cache.ragged and not cache.masked and (num_tokens == 1 or cache.max_length == 0)
        if plain:
            return places, None
        return places, attention_mask(places, num_keys, document_ids=document_ids, padding_mask=padding_mask)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value of the model, in one place.

        Matrices are normal with `initializer_range`, token embeddings with a range of their own if it is given. Those
        that end a residual branch are divided by √(2 · layers), as there are that many branches to add up (Radford et
        al. 2019), or start at zero. Norms start as the identity.
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
                of_tokens = cfg.embedding_initializer_range if module is self.model.embed_tokens else None
                module.weight.normal_(0, cfg.initializer_range if of_tokens is None else of_tokens)
            elif module is self.lm_head and cfg.tie_word_embeddings:
                pass  # it is the embedding
            elif isinstance(module, Linear | Router):
                ends_branch = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0, residual_std if ends_branch else cfg.initializer_range)
                if isinstance(module, Router) and module.selection_bias is not None:
                    module.selection_bias.zero_()
