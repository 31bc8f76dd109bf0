"""Makes a tokenizer.json lossless: disables what it does beyond splitting text if that is safe, and rejects it if not.

Bits per byte, samples and exports all depend on this: decoding the ids of a text must give exactly that text.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer

from minimind.tokenizer.symbols import BYTE_OF_SYMBOL, UTF8_BYTES

# Components that keep every character of any text; a Split or Punctuation may still have the behavior "Removed".
LOSSLESS = {
    "normalizer": {"ByteLevel"},
    "pre_tokenizer": {"ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"},
    "decoder": {"ByteLevel", "Fuse"},
}
SHOWN = 24  # characters shown of a text, from shortly before the first difference

_EVERY_BYTE = "".join(map(chr, range(0x800))) + "".join(  # with all leading bytes of three and four byte characters
    map(chr, (0x800, *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x40000), 0x10FFFF))
)
_TRICKY_TEXT = (  # what normalizers, splitters and decoders tend to change
    "  Two  blanks, the QUICK Brown fox.  Tabs\t\there \t and\n\n\nlines\r\n\r\nof\rboth kinds \n  if x:\n\tpass\n"
    "naïve café, nai\u0308ve cafe\u0301, \u00c5 \u212b A\u030a, straße STRASSE, İstanbul, ﬁne ① ½ ｗｉｄｅ x² ª\n"
    "中文，没有空格。「日本語」 한국어 \u1112\u1161\u11ab 👩‍👩‍👧‍👦 🎉🏽 🇨🇳 \u3000\u00a0\u200b\ufeff\n"
    "▁ ▁▁ ## ##ing </w> Ġ Ċ I'm, don't, they'll; ``quotes'' 1234567 1,000.50 1 2  3 , . ! ? <unk> [UNK] <s> </s>  "
)
PROBE = f"  \n{_EVERY_BYTE}{_TRICKY_TEXT}"


def disable_extras(content: dict[str, Any]) -> dict[str, Any]:
    """Copy of a tokenizer.json without truncation, padding, randomness and the like, which do not affect what ids mean.

    NFC normalization, which Qwen's tokenizers have, is removed too: nearly all text is NFC already, so its ids stay
    the same, and other text would be decoded to different bytes than were counted. Other normalizers change common
    text, and the model was trained on the changed text: they are kept here and rejected later.
    """
    changed = {**content, "truncation": None, "padding": None, "normalizer": _without_nfc(content.get("normalizer"))}
    if isinstance(model := content.get("model"), dict) and "dropout" in model:
        changed["model"] = {**model, "dropout": None}
    changed["pre_tokenizer"] = _without_prefix_space(content.get("pre_tokenizer"))
    if isinstance(added := content.get("added_tokens"), list):
        changed["added_tokens"] = [_without_stripping(token) for token in added]
    return changed


def _without_nfc(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(inner := node.get("normalizers"), list):
        kept = [step for step in map(_without_nfc, inner) if step is not None]
        return {**node, "normalizers": kept} if kept else None
    return None if node.get("type") == "NFC" else node


def _without_prefix_space(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(inner := node.get("pretokenizers"), list):
        return {**node, "pretokenizers": [_without_prefix_space(step) for step in inner]}
    return {**node, "add_prefix_space": False} if node.get("type") == "ByteLevel" else node


def _without_stripping(token: Any) -> Any:
    """Special tokens keep `lstrip` and `rstrip`: they are never matched in text here, but transformers uses these."""
    if not isinstance(token, dict) or token.get("special"):
        return token
    return {**token, "lstrip": False, "rstrip": False}


def model_problem(content: dict[str, Any]) -> str | None:
    """Settings with which the library panics and prints a stack trace; checked before it reads the file."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return None
    found = next((name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)), None)
    return (
        found and f"must have tokens without prefix or suffix, but has a `{found}`, {model[found]!r}; use one without."
    )


def ids_problem(vocabulary: dict[str, int], content: dict[str, Any]) -> str | None:
    """Ids must be contiguous from 0, and those of added tokens as in the file: the library silently renumbers them."""
    seen: set[str] = set()
    for token in content.get("added_tokens") or []:
        if token["content"] in seen:
            return f"must name each of its `added_tokens` once, but has {token['content']!r} twice."
        seen.add(token["content"])
        if (loaded := vocabulary.get(token["content"])) != token["id"]:
            return (
                f"must number its `added_tokens` consecutively after its vocabulary, but {token['content']!r} has the "
                f"id {token['id']} instead of {loaded}."
            )
    ids = sorted(vocabulary.values())
    if ids == list(range(len(ids))):
        return None
    wrong = next(expected for expected, index in enumerate(ids) if expected != index)
    problem = f"{ids[wrong]} occurs twice" if ids[wrong] < wrong else f"{wrong} is missing"
    return f"must have each of the ids 0 to {len(ids) - 1} once, but {problem}."


class Codec(Protocol):
    """The part of `bpe.BPE` that is needed here."""

    tokenizer: Tokenizer

    def bytes_of(self, token_id: int) -> bytes: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def text_problem(bpe: Codec) -> str | None:
    """Encode and decode a probe that includes the added tokens, and check for problems that no probe would reveal."""
    added = [token.content for token in bpe.tokenizer.get_added_tokens_decoder().values()]
    text = PROBE + "".join(f" {token}  {token}x{token}\n" for token in added) + PROBE[:3]
    first, second = bpe.encode_batch([text, text])
    if first != second:
        return "must be deterministic, but splits the same text in different ways; remove its source of randomness."
    lossy_parts = ", ".join(_lossy_parts(bpe.tokenizer))
    remedy = (
        f"use one without this {lossy_parts}." if lossy_parts else "a tokenizer may only split text, not change it."
    )
    if (decoded := bpe.decode(first)) != text:
        before, after = _first_difference(text, decoded)
        return f"must decode to the original text, but {before!r} came back as {after!r}; {remedy}"
    token_bytes = {index: bpe.bytes_of(index) for index in set(first)}
    if b"".join(token_bytes[index] for index in first) != text.encode():
        return "must be a byte-level tokenizer, but the bytes of its tokens are not those of the text."
    if lossy_parts:
        return f"must decode every text to the original, but may not; {remedy}"
    return _lost_token(bpe)


def _lost_token(bpe: Codec) -> str | None:
    """A byte without a token, or a special token that ordinary text can produce: decoding drops both."""
    tokens = bpe.tokenizer
    for symbol, byte in BYTE_OF_SYMBOL.items():
        if byte in UTF8_BYTES and tokens.model.token_to_id(symbol) is None:
            return f"must have a token for every byte of UTF-8, but has none for 0x{byte:02x}."
    for index, token in tokens.get_added_tokens_decoder().items():
        # In any context, BPE builds a token with the same merges as from that token's text alone.
        if token.special and [part.id for part in tokens.model.tokenize(token.content)] == [index]:
            remedy = "set its `ignore_merges` to false" if tokens.model.ignore_merges else "remove it from there"
            return (
                f"must not have special tokens in `added_tokens` that ordinary text can produce, as decoding would "
                f"drop them, but has {token.content!r}; {remedy}."
            )
    return None


def _first_difference(text: str, decoded: str) -> tuple[str, str]:
    shorter = min(len(text), len(decoded))
    same = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), shorter)
    start = max(0, same - SHOWN // 3)
    return text[start : start + SHOWN], decoded[start : start + SHOWN]


def _lossy_parts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the names of components that do more than split text, as the library loaded them."""
    for component, lossless in LOSSLESS.items():
        part = getattr(tokenizer, component)
        nodes = [] if part is None else list(_leaves(json.loads(part.__getstate__())))
        for node in nodes:
            kind = node.get("type")
            if kind not in lossless or node.get("behavior") == "Removed":
                yield f"{component} {kind}"
            elif component == "pre_tokenizer" and node.get("add_prefix_space"):
                yield f"{component} {kind} with `add_prefix_space`"
        if component == "decoder" and sum(node.get("type") == "ByteLevel" for node in nodes) > 1:
            yield "second decoder ByteLevel"  # changes only text in which every character is a byte's symbol
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(tokenizer.model, name):
            yield f"model `{name}`"
    if any(
        token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values() if not token.special
    ):
        yield "`lstrip` or `rstrip` of added tokens"


def _leaves(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer or decoder, which may be a nested sequence."""
    inner = next((node[key] for key in ("normalizers", "pretokenizers", "decoders") if key in node), None)
    if inner is None:
        yield node
    else:
        for step in inner:
            yield from _leaves(step)
