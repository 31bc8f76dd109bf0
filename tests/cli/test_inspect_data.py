"""`minimind inspect` on token shards and tokenizers."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minimind.cli import main
from minimind.cli.inspect_shards import describe_epochs
from minimind.cli.inspect_tokenizer import readable
from minimind.data.config import TextConfig
from minimind.data.describe import excerpts, length_histogram
from minimind.data.packing import WindowPacking
from minimind.data.prepare import TRAIN, PreparedData, prepare
from minimind.data.shards import ShardWriter, TokenStream, token_dtype
from minimind.tokenizer.bpe import BPE, END_OF_TEXT
from minimind.tokenizer.config import TokenizerConfig

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def prepared(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    data = TextConfig(files=[str(text_file)], block_kb=1)
    return prepare(data, TokenizerConfig(vocab_size=300), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    monkeypatch.setenv("COLUMNS", "150")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["minimind", "inspect", *map(str, arguments)])
        code = main.main()
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_shards_are_shown_as_a_table_a_histogram_and_epochs(inspect: Inspect, prepared: PreparedData) -> None:
    (source,) = prepared.sources
    stream = source.stream(TRAIN)
    code, text, _ = inspect(source.folder, "--batch-tokens", 1024, "--epochs", 2)
    assert code == 0
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if "  " in line}
    assert rows["documents"][-2:] == [str(stream.num_documents), str(source.stream("validation").num_documents)]
    assert rows["tokens"][-2] == f"{len(stream):,}"
    assert rows["fingerprint"][-2] == stream.fingerprint[:12]
    assert "block_kb 1" in text
    assert "█" in text
    assert "of 512 tokens" in text
    assert "2 epochs are" in text


def test_a_window_shows_its_text_and_document_boundaries(inspect: Inspect, prepared: PreparedData) -> None:
    (source,) = prepared.sources
    stream, tokenizer = source.stream(TRAIN), prepared.tokenizer
    _, text, _ = inspect(source.folder, "--window", 1, "--length", 700)
    shown = text[text.index("Window 1 of") :]
    assert "document 0 ─" not in shown or "document 1 ─" in shown
    boundaries = int(np.sum(stream.read(700, 1400) == tokenizer.end_of_text))
    assert boundaries >= 1
    assert shown.count(END_OF_TEXT) == boundaries
    assert len(re.findall(r"^document \d+ ─", shown, re.M)) == boundaries + 1
    flat = re.sub(r"\s", "", shown)
    for excerpt in excerpts(stream, 700, 1400, tokenizer.end_of_text):
        assert re.sub(r"\s|�", "", tokenizer.decode(excerpt.tokens)) in flat.replace("�", "")


def test_excerpts_and_length_histogram_match_the_documents(tmp_path: Path) -> None:
    documents = [[5, 6, 0], [7, 0], [8, 9, 10, 11, 0], [0], [12, 0], [3] * 8 + [0]]
    writer = ShardWriter(tmp_path, token_dtype(300), shard_tokens=4)
    for document in documents:
        writer.add(document, text_bytes=1)
    writer.close("hash")
    stream = TokenStream(tmp_path)
    assert len(stream.shards) > 2
    assert length_histogram(stream) == [(0, 1), (1, 2), (2, 1), (4, 1), (8, 1)]
    for start in range(len(stream)):
        for stop in range(start + 1, len(stream) + 1):
            found = list(excerpts(stream, start, stop, end_of_text=0))
            flat = [token for excerpt in found for token in [*excerpt.tokens, *([0] if excerpt.ends else [])]]
            assert flat == stream.read(start, stop).tolist()
            for excerpt in found:
                assert set(excerpt.tokens) <= set(documents[excerpt.document][:-1])


@pytest.mark.parametrize("tokens", [1, 2, 512, 513, 514, 1025, 1026, 5000])
def test_epochs_are_counted_as_in_training(tokens: int, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, token_dtype(300))
    writer.add([0] * tokens, text_bytes=tokens)
    writer.close("hash")
    windows = WindowPacking(TokenStream(tmp_path), 512).num_examples
    assert f"is {windows:,} windows of 512 tokens, {windows / 4:,.1f} steps of 2,048" in describe_epochs(
        tokens, "train", 512, 2048, 1
    )


def test_a_tokenizer_is_shown_with_readable_tokens_and_bytes_per_token(
    inspect: Inspect, prepared: PreparedData, text_file: Path
) -> None:
    code, text, _ = inspect(prepared.tokenizer_path, "--tokens", 300, "--corpus", text_file)
    assert code == 0
    assert "300 tokens" in text
    assert f"{END_OF_TEXT} (0)" in text
    assert re.search("␣[a-z]", text)
    assert r"\xe6" in text
    content = text_file.read_text(encoding="utf-8")
    tokens = sum(len(prepared.tokenizer.encode(line)) for line in content.splitlines(keepends=True))
    size = len(content.encode())
    found = re.search(r"([\d,]+) bytes, ([\d,]+) tokens, ([\d.]+) bytes per token", text)
    assert found is not None
    assert int(found[1].replace(",", "")) == size
    assert int(found[2].replace(",", "")) == pytest.approx(tokens, rel=0.01)
    assert float(found[3]) == pytest.approx(size / tokens, rel=0.01)
    assert inspect(prepared.tokenizer_path, "--first", 17, "--tokens", 2)[1].split()[-4:] == ["17", "!", "18", '"']


def test_bytes_are_readable() -> None:
    assert readable(" the\n\t日".encode()) == r"␣the\n\t日"
    assert readable(b"\xe6\x97a") == r"\xe6\x97a"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("folder", ["--corpus", "a.txt"], "--corpus must only be used with a tokenizer"),
        ("folder", ["--length", 5], "--length must be used with --window"),
        ("folder", ["--window", 10**9], "--window must be from 0 to"),
        ("folder", ["--batch-tokens", 0], "--batch-tokens must be positive, but is 0"),
        (
            "tokenizer",
            ["--window", 5, "--batch-tokens", 5],
            "--window, --batch-tokens must only be used with token shards",
        ),
        ("tokenizer", ["--first", 300], "--first must be from 0 to 299, but is 300"),
        ("tokenizer", ["--tokens", 0], "--tokens must be at least 1"),
        ("tokenizer", ["--corpus", "nowhere.txt"], "nowhere.txt is neither in"),
    ],
)
def test_invalid_options_are_refused(
    inspect: Inspect, prepared: PreparedData, name: str, arguments: list, message: str
) -> None:
    path = prepared.sources[0].folder if name == "folder" else prepared.tokenizer_path
    code, _, err = inspect(path, *arguments)
    assert (code, message in err) == (2, True), err


def test_the_token_layout_of_minimind(tmp_path: Path) -> None:
    """36 added tokens before the bytes; 15 of them, such as <think>, are matched in text and counted in its bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = [END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|special{i}|>" for i in range(18))]
    matched_in_text = ["<tool_call>", "</tool_call>", "<think>", "</think>", *(f"<|buffer{i}|>" for i in range(11))]
    names = [*special, *matched_in_text, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in matched_in_text])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bpe = BPE.load(tmp_path / "tokenizer.json")
    text = f"a<think>é</think>{END_OF_TEXT}"
    ids = bpe.encode(text)
    assert names.index("<think>") in ids
    assert bpe.end_of_text not in ids
    assert sum(bpe.token_bytes[ids]) == len(text.encode())
    assert bpe.decode(ids) == text
    assert bpe.token_bytes[bpe.end_of_text] == 0


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path: Path, inspect: Inspect) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({END_OF_TEXT: 0, "▁the": 1}, [])).save(str(tmp_path / "t.json"))
    code, _, err = inspect(tmp_path / "t.json")
    assert (code, "must be a byte-level tokenizer, but has tokens with '▁'" in err) == (2, True), err


def test_tokens_and_targets_are_counted_separately(inspect: Inspect, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        writer = ShardWriter(tmp_path / split, token_dtype(300))
        targets = np.array([split == "validation", True, True])
        writer.add([5, 6, 0], text_bytes=1, targets=targets)
        writer.close("hash", options={}, versions={})
    code, text, _ = inspect(tmp_path)
    assert code == 0
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in text.splitlines() if "  " in line}
    assert rows["tokens"] == ["3", "3"]
    assert rows["targets"] == ["2", "3"]
    assert rows["bytes per target"] == ["0.500", "0.333"]
