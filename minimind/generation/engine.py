"""Prefill once, then decode token by token from the cache."""

from collections.abc import Iterator, Sequence

import torch

from minimind.generation.sampling import SamplingConfig, sample
from minimind.model.kv_cache import KVCache
from minimind.model.transformer import MiniMind
from minimind.utils.errors import UserError


@torch.inference_mode()
def generate(
    model: MiniMind,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    end_of_text: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yields the continuation token by token, until `end_of_text` (not yielded) or `max_new_tokens`.

    Raises:
        UserError: the prompt is empty, has ids outside the vocabulary, or fills the context; or a negative length.
    """
    cfg = model.config
    if not prompt:
        raise UserError("A prompt must have at least one token, but is empty; give some text.")
    if outside := [token for token in prompt if not 0 <= token < cfg.vocab_size]:
        raise UserError(
            f"Token ids must be from 0 to {cfg.vocab_size - 1} (the model's vocabulary), but the prompt has "
            f"{outside[0]}; encode it with the model's own tokenizer."
        )
    if max_new_tokens < 0:
        raise UserError(f"`max_new_tokens` must be at least 0, but is {max_new_tokens}.")
    if len(prompt) >= cfg.context_length:
        raise UserError(
            f"The prompt must be shorter than the context of {cfg.context_length} tokens, but has {len(prompt)}; "
            "shorten it, or stretch the context of a model with rope by YaRN (`minimind generate --yarn FACTOR`)."
        )
    model.eval()
    capacity = min(cfg.context_length, len(prompt) + max_new_tokens)
    cache = KVCache(cfg, 1, capacity, device=model.device, dtype=model.dtype)
    tokens = torch.tensor([list(prompt)], device=model.device)
    for _ in range(capacity - len(prompt)):
        logits = model(tokens, cache=cache).logits[:, -1]  # (1, V)
        cache.advance(tokens.shape[1])
        tokens = sample(logits, sampling, generator)[:, None]
        token = int(tokens)
        if token == end_of_text:
            return
        yield token
