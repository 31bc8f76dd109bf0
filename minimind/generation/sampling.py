"""Sampling the next token from logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minimind.utils.errors import ConfigError
from minimind.utils.settings import not_finite


@dataclass
class SamplingConfig:
    temperature: float = 0.8  # 0: greedy, always the likeliest token
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # 1: no limit

    def __post_init__(self) -> None:
        found = list(not_finite(self))
        if self.temperature < 0:
            found.append(f"`temperature` must be at least 0 (greedy), but is {self.temperature}.")
        if self.top_k < 0:
            found.append(f"`top_k` must be at least 0 (no limit), but is {self.top_k}.")
        if self.top_p <= 0 or self.top_p > 1:
            found.append(f"`top_p` must be above 0 and at most 1, but is {self.top_p}.")
        if found:
            raise ConfigError(found)


def sample(logits: Tensor, cfg: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """Sample one token per sequence, (B,), from logits (B, V): top-k, then top-p (nucleus sampling, Holtzman 2020)."""
    if cfg.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / cfg.temperature
    if 0 < cfg.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(cfg.top_k).values[:, -1:], -torch.inf)
    if cfg.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities  # probability mass of all likelier tokens
        ordered = ordered.masked_fill(before >= cfg.top_p, -torch.inf)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, order, ordered)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]
