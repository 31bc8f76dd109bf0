"""Decoding: prefill the KV cache with the prompt, then generate token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minimind.generation.sampling import SamplingConfig, sample
from minimind.model.kv_cache import KVCache
from minimind.model.transformer import MiniMind
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError
from minimind.utils.seeding import stream_seed


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
    """Yield the continuation token by token, until `end_of_text` (not yielded) or `max_new_tokens`.

    Raises:
        UserError: the prompt is empty, has out-of-vocabulary ids or fills the context, or `max_new_tokens` is negative.
    """
    cfg = model.config
    if not prompt:
        raise UserError("A prompt must have at least one token, but is empty; give some text.")
    if out_of_vocabulary := [token for token in prompt if not 0 <= token < cfg.vocab_size]:
        raise UserError(
            f"Token ids must be from 0 to {cfg.vocab_size - 1} (the model's vocabulary), but the prompt has "
            f"{out_of_vocabulary[0]}; encode it with the model's own tokenizer."
        )
    if max_new_tokens < 0:
        raise UserError(f"`max_new_tokens` must be at least 0, but is {max_new_tokens}.")
    if len(prompt) >= cfg.context_length:
        raise UserError(
            f"The prompt must be shorter than the context of {cfg.context_length} tokens, but has {len(prompt)}; "
            "shorten it, or extend the context of a model with rope by YaRN (`minimind generate --yarn FACTOR`)."
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


@dataclass(frozen=True)
class Sampler:
    """Continues the same prompts during training, each with its own random stream."""

    tokenizer: BPE
    prompts: list[str]
    sampling: SamplingConfig
    max_new_tokens: int
    seed: int

    def __call__(self, model: MiniMind, step: int) -> list[dict[str, Any]]:
        """Dicts with `step`, `prompt` and `continuation`; the model's mode and the global generators are unchanged."""
        was_training = model.training
        try:
            return [self._sample(model, step, number, prompt) for number, prompt in enumerate(self.prompts)]
        finally:
            model.train(was_training)

    def _sample(self, model: MiniMind, step: int, number: int, prompt: str) -> dict[str, Any]:
        generator = torch.Generator(model.device).manual_seed(stream_seed(self.seed, f"sample{number}"))
        continuation = generate(
            model, self.tokenizer.encode(prompt), max_new_tokens=self.max_new_tokens, sampling=self.sampling,
            end_of_text=self.tokenizer.end_of_text, generator=generator,
        )  # fmt: skip
        return {"step": step, "prompt": prompt, "continuation": self.tokenizer.decode(list(continuation))}
