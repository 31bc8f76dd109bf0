"""Byte-level BPE: lossless, with exact byte counts, and without matching special tokens in text."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.chat import MARKERS, has_added_tokens
from minimind.tokenizer.config import END_OF_TEXT, RESERVED_TOKENS, SPECIAL_TOKENS, TokenizerConfig
from minimind.utils.errors import ConfigError, UserError

TEXTS = ["def f(x):\n    return x + 1\n", "naïve 日本 café\n", "    if a == b:\n\t\tpass\n"] * 5
TOKENIZER = BPE.train(TEXTS, vocab_size=300)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_every_text_is_decoded_exactly_and_its_bytes_are_counted(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert sum(TOKENIZER.token_bytes[ids]) == len(text.encode())


def test_special_tokens_in_text_stay_text() -> None:
    ids = TOKENIZER.encode(f"a{END_OF_TEXT}b")
    assert TOKENIZER.end_of_text not in ids
    assert TOKENIZER.decode(ids) == f"a{END_OF_TEXT}b"


def test_the_vocabulary_has_the_requested_size_and_special_tokens_have_no_bytes() -> None:
    assert TOKENIZER.vocab_size == 300
    for token in SPECIAL_TOKENS:
        assert TOKENIZER.token_bytes[TOKENIZER.tokenizer.token_to_id(token)] == 0


@given(st.text(alphabet="aé日🎉 \n", max_size=20))
@settings(max_examples=50, deadline=None)
def test_streaming_yields_the_same_text(text: str) -> None:
    parts = list(TOKENIZER.stream_decode(TOKENIZER.encode(text)))
    assert "".join(parts) == text


def test_digits_are_single_tokens_even_where_numbers_are_frequent() -> None:
    tokenizer = BPE.train(["in 1984 and 1985, 42 times\n"] * 50, vocab_size=300)
    assert [tokenizer.decode([index]) for index in tokenizer.encode("1984+42")] == list("1984+42")
    assert not [token for token in tokenizer.tokenizer.get_vocab() if sum(map(str.isdigit, token)) and len(token) > 1
                and token not in RESERVED_TOKENS]  # fmt: skip
    assert len(BPE.train(["1984\n"] * 50, 300, split_digits=False).encode("1984")) == 1


def test_reserved_tokens_have_ids_of_their_own_and_the_spare_ones_never_come_from_text() -> None:
    ids = [TOKENIZER.tokenizer.token_to_id(name) for name in RESERVED_TOKENS]
    assert ids == list(range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + 14))
    for name, index in zip(RESERVED_TOKENS, ids, strict=True):
        assert (index in TOKENIZER.encode(f"a{name}b")) == (not name.startswith("<|"))
        assert TOKENIZER.decode(TOKENIZER.encode(f"a {name} b")) == f"a {name} b"
    assert has_added_tokens(TOKENIZER, MARKERS)


def test_without_reserved_tokens_it_is_the_tokenizer_of_earlier_versions() -> None:
    old = BPE.train(TEXTS, 300, reserved=[], split_digits=False)
    assert old.hash == "814e2dfa65944b3f100a17b3170afff808c6720fa721744a1d8bbd9e26600041"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"vocab_size": 272}, "must be at least 273 (256 bytes, 3 special tokens, 14 reserved ones), but is 272"),
        ({"reserved": ["<a>", "<a>"]}, "must be different names"),
        ({"reserved": [END_OF_TEXT]}, "but has '<|endoftext|>'"),
        ({"reserved": [" <a>"]}, "but has ' <a>'"),
        ({"reserved": ["a"]}, "two characters or more"),
        ({"reserved": ["naïve"]}, "without accented letters, but has 'naïve'"),
    ],
)
def test_reserved_tokens_that_cannot_be_had(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        TokenizerConfig(**settings)


def test_an_existing_tokenizer_needs_no_room_for_reserved_tokens() -> None:
    assert TokenizerConfig(vocab_size=259, path="t.json").vocab_size == 259


def test_a_saved_tokenizer_loads_unchanged(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert BPE.load(tmp_path / "tokenizer.json").hash == TOKENIZER.hash


@pytest.mark.parametrize("content", ["", "{}", "not JSON"])
def test_a_file_that_is_not_a_tokenizer_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=r"t\.json must be a tokenizer\.json"):
        BPE.load(tmp_path / "t.json")
