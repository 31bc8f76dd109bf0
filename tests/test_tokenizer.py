"""Byte-level BPE: lossless, with exact byte counts, and without matching special tokens in text."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.tokenizer.bpe import BPE, END_OF_TEXT, SPECIAL_TOKENS
from minimind.utils.errors import UserError

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


def test_a_saved_tokenizer_loads_unchanged(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert BPE.load(tmp_path / "tokenizer.json").hash == TOKENIZER.hash


@pytest.mark.parametrize("content", ["", "{}", "not JSON"])
def test_a_file_that_is_not_a_tokenizer_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=r"t\.json must be a tokenizer\.json"):
        BPE.load(tmp_path / "t.json")
