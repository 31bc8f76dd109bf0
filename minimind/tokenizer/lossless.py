"""What a tokenizer.json does besides splitting text: switched off where that is safe, and refused where it is not.

Bits per byte, samples and exports all rest on one thing: the ids of a text give back that text and no other.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer

from minimind.tokenizer.symbols import BYTE_OF_SYMBOL, UTF8_BYTES

# What leaves every character of any text where it is; a Split or Punctuation may still say that it removes.
HARMLESS = {
    "normalizer": {"ByteLevel"},
    "pre_tokenizer": {"ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"},
    "decoder": {"ByteLevel", "Fuse"},
}
SHOWN = 24  # characters of a text, from a little before the first that differs

_EVERY_BYTE = "".join(map(chr, range(0x800))) + "".join(  # with the first bytes of three- and four-byte characters …
    map(chr, (0x800, *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x40000), 0x10FFFF))
)
_WRITING = (  # … and what normalizers, splitters and decoders like to change
    "  Two  blanks, the QUICK Brown fox.  Tabs\t\there \t and\n\n\nlines\r\n\r\nof\rboth kinds \n  if x:\n\tpass\n"
    "naïve café, nai\u0308ve cafe\u0301, \u00c5 \u212b A\u030a, straße STRASSE, İstanbul, ﬁne ① ½ ｗｉｄｅ x² ª\n"
    "中文，没有空格。「日本語」 한국어 \u1112\u1161\u11ab 👩‍👩‍👧‍👦 🎉🏽 🇨🇳 \u3000\u00a0\u200b\ufeff\n"
    "▁ ▁▁ ## ##ing </w> Ġ Ċ I'm, don't, they'll; ``quotes'' 1234567 1,000.50 1 2  3 , . ! ? <unk> [UNK] <s> </s>  "
)
PROBE = f"  \n{_EVERY_BYTE}{_WRITING}"


def only_splitting(content: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer.json without what would cut, fill or vary a text but leaves the meaning of the ids alone.

    Unicode's NFC goes, too (Qwen's have it): text is nearly always NFC already, and then the ids stay the same; what
    is not would come back as other bytes than were counted. Other normalizers change common text, on which the
    model was trained in its changed form: such a file is not another tokenizer's business to mend, but is refused.
    """
    changed = {**content, "truncation": None, "padding": None, "normalizer": _without_nfc(content.get("normalizer"))}
    if isinstance(model := content.get("model"), dict) and "dropout" in model:
        changed["model"] = {**model, "dropout": None}
    changed["pre_tokenizer"] = _without_added_blank(content.get("pre_tokenizer"))
    if isinstance(added := content.get("added_tokens"), list):
        changed["added_tokens"] = [_without_swallowing(token) for token in added]
    return changed


def _without_nfc(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(inner := node.get("normalizers"), list):
        kept = [one for one in map(_without_nfc, inner) if one is not None]
        return {**node, "normalizers": kept} if kept else None
    return None if node.get("type") == "NFC" else node


def _without_added_blank(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(inner := node.get("pretokenizers"), list):
        return {**node, "pretokenizers": [_without_added_blank(one) for one in inner]}
    return {**node, "add_prefix_space": False} if node.get("type") == "ByteLevel" else node


def _without_swallowing(token: Any) -> Any:
    """Special tokens are never found in text, so that theirs say something to transformers only."""
    if not isinstance(token, dict) or token.get("special"):
        return token
    return {**token, "lstrip": False, "rstrip": False}


def model_problem(content: dict[str, Any]) -> str | None:
    """What makes the library panic, with a stack trace on the terminal; looked for before it reads the file."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return None
    found = next((name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)), None)
    return (
        found and f"must have tokens that are nothing but text, but has a `{found}`, {model[found]!r}; use one without."
    )


def ids_problem(vocabulary: dict[str, int], content: dict[str, Any]) -> str | None:
    """Ids must be those of the file, where the library would count on silently, and be rows of an embedding."""
    seen: set[str] = set()
    for token in content.get("added_tokens") or []:
        if token["content"] in seen:
            return f"must name each of its `added_tokens` once, but has {token['content']!r} twice."
        seen.add(token["content"])
        if (read := vocabulary.get(token["content"])) != token["id"]:
            return (
                f"must number its `added_tokens` on from its vocabulary, but {token['content']!r} is {token['id']} "
                f"where {read} is next."
            )
    ids = sorted(vocabulary.values())
    if ids == list(range(len(ids))):
        return None
    wrong = next(place for place, index in enumerate(ids) if place != index)
    said = f"{ids[wrong]} is there twice" if ids[wrong] < wrong else f"{wrong} is missing"
    return f"must have the ids 0 to {len(ids) - 1}, each for one token, but {said}."


class Codec(Protocol):
    """What is asked of `bpe.BPE`."""

    tokenizer: Tokenizer

    def bytes_of(self, index: int) -> bytes: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def text_problem(bpe: Codec) -> str | None:
    """Encodes and decodes a probe, the tokenizer's own tokens among it, and looks for what no probe would betray."""
    added = [token.content for token in bpe.tokenizer.get_added_tokens_decoder().values()]
    text = PROBE + "".join(f" {token}  {token}x{token}\n" for token in added) + PROBE[:3]
    first, second = bpe.encode_batch([text, text])
    if first != second:
        return "must split a text in one way, but splits the same text in several; take what is random out of it."
    culprits = ", ".join(_meddling(bpe.tokenizer))
    remedy = (
        f"use one without this {culprits}." if culprits else "a tokenizer here may split text, and do nothing else."
    )
    if (back := bpe.decode(first)) != text:
        here, there = _first_difference(text, back)
        return f"must give text back as it was, but {here!r} came back as {there!r}; {remedy}"
    meant = {index: bpe.bytes_of(index) for index in set(first)}
    if b"".join(meant[index] for index in first) != text.encode():
        return "must be a byte-level tokenizer, but its tokens are not the bytes of the text that they stand for."
    if culprits:
        return f"must give every text back as it was, but may not; {remedy}"
    return _lost_token(bpe)


def _lost_token(bpe: Codec) -> str | None:
    """A byte that has no token, or a special token that texts are split into: decoding leaves those out."""
    tokens = bpe.tokenizer
    for symbol, byte in BYTE_OF_SYMBOL.items():
        if byte in UTF8_BYTES and tokens.model.token_to_id(symbol) is None:
            return f"must have a token for every byte of UTF-8, but has none for 0x{byte:02x}."
    for index, token in tokens.get_added_tokens_decoder().items():
        # Whatever surrounds it, a BPE's token is made by the same merges that make it when it stands alone.
        if token.special and [one.id for one in tokens.model.tokenize(token.content)] == [index]:
            remedy = "set its `ignore_merges` to false" if tokens.model.ignore_merges else "take it out of there"
            return (
                f"must have among its `added_tokens` no special one that ordinary text is split into, as it would be "
                f"lost from that text, but has {token.content!r}; {remedy}."
            )
    return None


def _first_difference(text: str, back: str) -> tuple[str, str]:
    same = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    start = max(0, same - SHOWN // 3)
    return text[start : start + SHOWN], back[start : start + SHOWN]


def _meddling(tokenizer: Tokenizer) -> Iterator[str]:
    """Its parts that do more than split, named for a message: as the library read them, whatever the file says."""
    for place, harmless in HARMLESS.items():
        part = getattr(tokenizer, place)
        nodes = [] if part is None else list(_leaves(json.loads(part.__getstate__())))
        for node in nodes:
            kind = node.get("type")
            if kind not in harmless or node.get("behavior") == "Removed":
                yield f"{place} {kind}"
            elif place == "pre_tokenizer" and node.get("add_prefix_space"):
                yield f"{place} {kind} with `add_prefix_space`"
        if place == "decoder" and sum(node.get("type") == "ByteLevel" for node in nodes) > 1:
            yield "second decoder ByteLevel"  # changes only texts whose every character stands for a byte
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(tokenizer.model, name):
            yield f"model `{name}`"
    if any(
        token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values() if not token.special
    ):
        yield "`lstrip` or `rstrip` of added tokens"


def _leaves(node: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, which may be a sequence of such."""
    inner = next((node[key] for key in ("normalizers", "pretokenizers", "decoders") if key in node), None)
    if inner is None:
        yield node
    else:
        for one in inner:
            yield from _leaves(one)
