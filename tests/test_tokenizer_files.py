"""What a tokenizer.json does beyond splitting text is disabled, or the file is rejected for what it changed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.cli import main
from minimind.tokenizer.bpe import BPE, END_OF_TEXT, SPECIAL_TOKENS
from minimind.tokenizer.lossless import PROBE
from minimind.utils.errors import UserError

TEXTS = ["def f(x):\n    return x + 1\n", "naïve 日本 café\n", "    if a == b:\n\t\tpass\n"] * 5
TRAINED = BPE.train(TEXTS, vocab_size=300, reserved=[], split_digits=False)
Content = dict[str, Any]

TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
           "pad_token": END_OF_TEXT}  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
THINK = {"id": 300, "content": "<think>", "single_word": False, "lstrip": True, "rstrip": True, "normalized": True,
         "special": False}  # fmt: skip
TEMPLATE = {
    "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "single": [{"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [0], "tokens": [END_OF_TEXT]}},
}  # fmt: skip


def content(**changes: Any) -> Content:
    return {**json.loads(TRAINED.tokenizer.to_str()), **changes}


def model(**changes: Any) -> Content:
    return content(model={**content()["model"], **changes})


def sequence(key: str, *steps: Content) -> Content:
    return {"type": "Sequence", key: list(steps)}


def split(behavior: str, pattern: str = "日") -> Content:
    return {"type": "Split", "pattern": {"String": pattern}, "behavior": behavior, "invert": False}


def without(*tokens: str) -> Content:
    """Remove learned tokens and renumber the others, so that no id is missing."""
    vocabulary = {t: i for t, i in content()["model"]["vocab"].items() if t not in tokens}
    merges = [pair for pair in content()["model"]["merges"] if not any(t in "".join(pair) for t in tokens)]
    return model(vocab={t: i for i, t in enumerate(sorted(vocabulary, key=lambda t: vocabulary[t]))}, merges=merges)


def added(*tokens: Content) -> Content:
    return content(added_tokens=[*content()["added_tokens"], *tokens])


def end_of_text(**changes: Any) -> Content:
    first, *others = content()["added_tokens"]
    return content(added_tokens=[{**first, **changes}, *others])


def learned_and_special(token: str) -> Content:
    return added({**THINK, "id": TRAINED.tokenizer.token_to_id(token), "content": token, "special": True})


def other_model(kind: str, **settings: Any) -> Content:
    return content(model={"type": kind, "vocab": TRAINED.tokenizer.get_vocab(), "unk_token": "!", **settings})


def words_for_bytes() -> Content:
    """No token for `q`, which the probe does not reveal: each of its words with a `q` is a separate token."""
    without_q = without("q")
    special = "".join(f" {token}  {token}x{token}\n" for token in SPECIAL_TOKENS)
    words = TRAINED.tokenizer.pre_tokenizer.pre_tokenize_str(f"{PROBE}{special}{PROBE[:3]}")
    vocabulary = [*without_q["model"]["vocab"], *dict.fromkeys(word for word, _ in words if "q" in word)]
    return model(**without_q["model"] | {"vocab": {t: i for i, t in enumerate(vocabulary)}, "ignore_merges": True})


GPT2 = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": END_OF_TEXT}
QWEN = sequence(
    "pretokenizers",
    {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": (
        r"(?i:'s|'t|'re|'ve|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )}},
    {**BYTES, "use_regex": False},
)  # fmt: skip
# Special tokens come after the vocabulary, and words in the vocabulary need no merges.
LLAMA3 = content(
    pre_tokenizer=QWEN, added_tokens=[{**token, "id": 297 + n} for n, token in enumerate(content()["added_tokens"])],
    model={**without(*SPECIAL_TOKENS)["model"], "ignore_merges": True},
)  # fmt: skip


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Content], BPE]:
    def load(content: Content) -> BPE:
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return BPE.load(tmp_path / "tokenizer.json")

    return load


@pytest.mark.parametrize(
    "changed",
    [
        content(truncation=TRUNCATION),
        content(padding=PADDING),
        content(truncation=TRUNCATION, padding=PADDING),
        model(dropout=0.5),
        content(normalizer={"type": "NFC"}),
        content(normalizer=sequence("normalizers", {"type": "NFC"})),
        content(pre_tokenizer={**BYTES, "add_prefix_space": True}),
    ],
    ids=["truncation", "padding", "both", "dropout", "NFC", "NFC in a sequence", "prefix space"],
)
def test_extras_that_can_be_disabled_are_disabled(
    changed: Content, load: Callable[[Content], BPE], tmp_path: Path
) -> None:
    bpe = load(changed)
    assert bpe.hash == TRAINED.hash
    bpe.save(tmp_path / "saved.json")
    assert "max_length" not in (tmp_path / "saved.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        content(),
        content(post_processor=TEMPLATE),
        content(pre_tokenizer=sequence("pretokenizers", split("Isolated"), {**BYTES, "add_prefix_space": True})),
        content(decoder=sequence("decoders", BYTES, {"type": "Fuse"})),
        added(THINK),
        content(normalizer={"type": "NFC"}, pre_tokenizer=QWEN),
        without("\xff", "À"),  # bytes that do not occur in UTF-8
        model(**GPT2),
        content(model={key: value for key, value in model(**GPT2)["model"].items() if key != "type"}),
        LLAMA3,
        model(byte_fallback=True),
        added({**THINK, "content": "return", "id": 300, "single_word": True}),
    ],
    ids=[
        "plain",
        "template",
        "own splits",
        "fused",
        "an added token",
        "Qwen's",
        "fewer bytes",
        "GPT-2's",
        "without a type",
        "Llama 3's",
        "byte fallback",
        "an added single word",
    ],
)
def test_tokenizers_that_only_split_are_accepted(changed: Content, load: Callable[[Content], BPE]) -> None:
    bpe = load(changed)

    @given(st.text() | st.text(alphabet="a <think>日\n", max_size=40))
    @settings(max_examples=25, deadline=None)
    def is_lossless(text: str) -> None:
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text
        assert sum(bpe.token_bytes[ids]) == len(text.encode())

    is_lossless()


REJECTED: dict[str, tuple[Content, str]] = {
    "lower case": (content(normalizer={"type": "Lowercase"}), "@ABC.* came back as .*@abc.*; use one .* Lowercase"),
    "NFC and lower case": (
        content(normalizer=sequence("normalizers", {"type": "NFC"}, {"type": "Lowercase"})), "normalizer Lowercase",
    ),
    "NFKC": (content(normalizer={"type": "NFKC"}), "came back as .* normalizer NFKC"),
    "NFD": (content(normalizer={"type": "NFD"}), "came back as .* normalizer NFD"),
    "strip": (content(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}), "normalizer Strip"),
    "strip right": (content(normalizer={"type": "Strip", "strip_left": False, "strip_right": True}), "came back as"),
    "prepend": (content(normalizer={"type": "Prepend", "prepend": "▁"}), "came back as .* normalizer Prepend"),
    "spaces joined": (
        content(normalizer={"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}), "normalizer Replace",
    ),
    "a rare character replaced": (
        content(normalizer={"type": "Replace", "pattern": {"String": "鱻"}, "content": "鱼"}),
        "every text to the original, but may not; use one without this normalizer Replace",
    ),
    "a rare character removed": (
        content(pre_tokenizer=sequence("pretokenizers", split("Removed", "鱻"), BYTES)), "pre_tokenizer Split",
    ),
    "words": (content(pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, BYTES)), "came back as"),
    "metaspace": (
        content(pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
        "came back as",
    ),
    "no splitter": (content(pre_tokenizer=None), "came back as"),
    "no decoder": (content(decoder=None), "came back as"),
    "decoder strips": (
        content(decoder=sequence("decoders", BYTES, {"type": "Strip", "content": " ", "start": 1,
                                                                     "stop": 0})), "decoder Strip",
    ),
    "decoder replaces": (
        content(decoder=sequence("decoders", BYTES,
                                 {"type": "Replace", "pattern": {"String": "鱻"}, "content": ""})), "decoder Replace",
    ),
    "a byte lost": (without("Ĩ"), "came back as"),  # 0x80 is part of many characters; not in the vocabulary, so dropped
    "a letter lost": (without("q"), "'.*pqr.* came back as '.*pr"),
    "a byte unknown": (content(model={**without("Ĩ")["model"], "unk_token": "!", "fuse_unk": True}), "came back as"),
    "suffix": (model(end_of_word_suffix="!"), "has a `end_of_word_suffix`, '!'"),
    "an id missing": (model(vocab={**content()["model"]["vocab"], "zz": 5000}), "0 to 300 once, but 300 is missing"),
    "an id twice": (model(vocab={**content()["model"]["vocab"], "zz": 10}), "but 10 occurs twice"),
    "an id not consecutive": (added({**THINK, "id": 310}), "'<think>' has the id 310 instead of 300"),
    "an added token with a byte symbol": (added({**THINK, "content": "Ġq"}), "'.*Ġq.* came back as"),
    "ordinary end of text": (end_of_text(special=False), 'special token.*"special": true'),
    "learned end of text": (content(added_tokens=content()["added_tokens"][1:]), 'special token.*"special": true'),
    "special and learned": (added({**THINK, "id": 270, "content": TRAINED.tokenizer.id_to_token(270), "special": True}),
                          "came back as"),
    "special and learned, not in the probe": (learned_and_special("Ġreturn"), "special tokens .* but has 'Ġreturn'"),
    "special and ignoring merges": (model(ignore_merges=True), "<.endoftext.>'; set its `ignore_merges` to false"),
    "added twice": (added(THINK, {**THINK, "special": True}), "'<think>' twice"),
    "a byte lost, but not in the probe": (words_for_bytes(), "every byte of UTF-8, but has none for 0x71"),
    "decoded twice": (content(decoder=sequence("decoders", BYTES, BYTES)), "may not; use one without this second"),
    "doubled": (content(post_processor={**TEMPLATE, "single": [TEMPLATE["single"][1]] * 2}), "came back as"),
    "prefix": (model(continuing_subword_prefix="#"), "has a `continuing_subword_prefix`, '#'"),
    "a step with the keys of a sequence": (
        content(normalizer={"type": "Replace", "pattern": {"String": "鱻"}, "content": "鱼", "normalizers": []}),
        "normalizer Replace",
    ),
    "a step that hides behind NFC": (content(normalizer={"type": "Lowercase", "normalizers": [{"type": "NFC"}]}),
                                 "normalizer Lowercase"),
    "WordLevel": (other_model("WordLevel"), "`model.type` is WordLevel"),
    "WordPiece": (
        other_model("WordPiece", continuing_subword_prefix="##", max_input_chars_per_word=10_000), "is WordPiece",
    ),
    "Unigram": (
        content(model={"type": "Unigram", "vocab": [[t, 0.0] for t in content()["model"]["vocab"]], "unk_id": 0}),
        "`model.type` is Unigram",
    ),
    "no end": (content(added_tokens=[], model={**without(END_OF_TEXT)["model"]}), "must have the token <.endoftext"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REJECTED))
def test_tokenizers_that_change_text_or_ids_are_rejected(
    case: str, load: Callable[[Content], BPE], tmp_path: Path
) -> None:
    changed, message = REJECTED[case]
    with pytest.raises(UserError, match=message) as raised:
        load(changed)
    assert str(tmp_path / "tokenizer.json") in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not JSON", '{"model": 1}', "[" * 100_000, "\xff", '{"model": {"type": "BPE"}}']
)
def test_a_file_that_is_not_a_tokenizer_is_reported_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"t\.json must be a tokenizer\.json") as raised:
        BPE.load(tmp_path / "t.json")
    assert len(str(raised.value).splitlines()) == 1


def test_the_hash_of_a_tokenizer_never_changes(load: Callable[[Content], BPE]) -> None:
    """Old shards have it in their manifests."""
    golden = "814e2dfa65944b3f100a17b3170afff808c6720fa721744a1d8bbd9e26600041"
    assert TRAINED.hash == load(content()).hash == golden


def test_inspect_shows_the_tokenizer_without_extras_and_rejects_lossy_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    monkeypatch.setattr("sys.argv", ["minimind", "inspect", str(path)])
    path.write_text(json.dumps(content(truncation=TRUNCATION)))
    assert main.main() == 0
    assert TRAINED.hash[:12] in capsys.readouterr().out
    path.write_text(json.dumps(content(normalizer={"type": "Lowercase"})))
    assert main.main() == 2
    assert re.search(r"must decode to the original text, but '.*' came back as '", capsys.readouterr().err)
