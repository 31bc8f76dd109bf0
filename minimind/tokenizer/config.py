"""Tokenizer settings: trained on the corpus, or read from a file."""

from dataclasses import dataclass

from minimind.tokenizer.symbols import BYTE_OF_SYMBOL
from minimind.utils.errors import ConfigError
from minimind.utils.settings import added

END_OF_TEXT = "<|endoftext|>"  # ends a document; also used for padding
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
# Tokens of later stages, so that none of them changes the vocabulary of a trained model: reasoning and tools as
# MiniMind-3 and Qwen3 write them, and eight spare ones.
RESERVED_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
                   *(f"<|buffer{number}|>" for number in range(1, 9))]  # fmt: skip


@dataclass
class TokenizerConfig:
    vocab_size: int = 6400  # including special tokens and the 256 bytes
    path: str | None = None  # an existing tokenizer.json; None: train one on the corpus
    sample_mb: int = 64  # maximum size of the training sample
    reserved: list[str] = added(RESERVED_TOKENS, introduced=[])  # <|…|> never come from text, others do
    split_digits: bool = added(True, introduced=False)  # each digit is a token of its own, which arithmetic needs

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def _is_ambiguous(name: str) -> bool:
    """Whether a name could be taken for learned tokens: too short, or with symbols that represent bytes in them."""
    return len(name) < 2 or name != name.strip() or any(ord(c) > 127 and c in BYTE_OF_SYMBOL for c in name)


def problems(cfg: TokenizerConfig) -> list[str]:
    found = []
    reserved = cfg.reserved if cfg.path is None else []  # an existing tokenizer has its own
    least = 256 + len(SPECIAL_TOKENS) + len(reserved)
    if cfg.vocab_size < least:
        found.append(
            f"`tokenizer.vocab_size` must be at least {least} (256 bytes, {len(SPECIAL_TOKENS)} special tokens, "
            f"{len(reserved)} reserved ones), but is {cfg.vocab_size}."
        )
    names = [*SPECIAL_TOKENS, *reserved]
    if wrong := [name for name in reserved if names.count(name) > 1 or _is_ambiguous(name)]:
        found.append(
            f"`tokenizer.reserved` must be different names of two characters or more, none of them special already and "
            f"without accented letters, but has {wrong[0]!r}."
        )
    if cfg.path == "":
        found.append("`tokenizer.path` must name a tokenizer.json, such as tokenizer.path=my/tokenizer.json.")
    if cfg.sample_mb < 1:
        found.append(f"`tokenizer.sample_mb` must be at least 1, but is {cfg.sample_mb}.")
    return found
