"""The same few prompts continued, each from a stream of randomness of its own."""

from dataclasses import dataclass
from typing import Any

import torch

from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.model.transformer import MiniMind
from minimind.tokenizer.bpe import BPE
from minimind.utils.seeding import stream_seed


@dataclass(frozen=True)
class Sampler:
    tokenizer: BPE
    prompts: list[str]
    sampling: SamplingConfig
    max_new_tokens: int
    seed: int

    def __call__(self, model: MiniMind, step: int) -> list[dict[str, Any]]:
        """Objects with `step`, `prompt` and `continuation`; leaves the model as it was, and every global generator."""
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
