"""Tokenizer settings: trained on the corpus, or read from a file."""

from dataclasses import dataclass

from minimind.utils.errors import ConfigError


@dataclass
class TokenizerConfig:
    vocab_size: int = 6400  # including special tokens and the 256 bytes
    path: str | None = None  # an existing tokenizer.json; None: train one on the corpus
    sample_mb: int = 64  # maximum size of the training sample

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: TokenizerConfig) -> list[str]:
    found = []
    if cfg.vocab_size < 259:
        found.append(f"`tokenizer.vocab_size` must be at least 259 (256 bytes, 3 special), but is {cfg.vocab_size}.")
    if cfg.path == "":
        found.append("`tokenizer.path` must name a tokenizer.json, such as tokenizer.path=my/tokenizer.json.")
    if cfg.sample_mb < 1:
        found.append(f"`tokenizer.sample_mb` must be at least 1, but is {cfg.sample_mb}.")
    return found
