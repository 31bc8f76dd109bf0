"""Text → tokenizer and shards: exact, once, and safe when two processes ask together."""

import multiprocessing
from pathlib import Path

import pytest

from minimind.data.config import DataConfig, TextConfig
from minimind.data.corpora import build_corpus
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData, prepare, prepare_with
from minimind.tokenizer.config import TokenizerConfig
from minimind.utils.errors import UserError

TOKENIZER = TokenizerConfig(vocab_size=300)


@pytest.fixture
def data(text_file: Path) -> DataConfig:
    return TextConfig(files=[str(text_file)], block_kb=1)


def texts(prepared: PreparedData, split: str) -> list[str]:
    (stream,), tokenizer = prepared.streams(split), prepared.tokenizer
    return [tokenizer.decode(stream.document(i).tolist()) for i in range(stream.num_documents)]


def test_shards_decode_to_the_very_text_and_the_splits_are_disjoint(data: DataConfig, tmp_path: Path) -> None:
    corpus = build_corpus(data)
    documents = [d for file in corpus.files for d in corpus.documents(file)]
    prepared = prepare(data, TOKENIZER, tmp_path)
    assert texts(prepared, TRAIN) == [d.text for d in documents if not d.held_out]
    assert texts(prepared, VALIDATION) == [d.text for d in documents if d.held_out]
    assert not set(texts(prepared, TRAIN)) & set(texts(prepared, VALIDATION))
    assert prepared.streams(TRAIN)[0].text_bytes == sum(len(d.text.encode()) for d in documents if not d.held_out)


def test_done_once(data: DataConfig, tmp_path: Path) -> None:
    first = prepare(data, TOKENIZER, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert prepare(data, TOKENIZER, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_same_input_same_fingerprint_elsewhere(data: DataConfig, tmp_path: Path) -> None:
    one, two = (prepare(data, TOKENIZER, tmp_path / name) for name in "ab")
    assert one.sources != two.sources
    assert one.fingerprint == two.fingerprint


def test_other_options_are_another_cache(data: DataConfig, tmp_path: Path) -> None:
    one = prepare(data, TOKENIZER, tmp_path)
    two = prepare(data, TokenizerConfig(vocab_size=280), tmp_path)
    assert one.sources != two.sources


def test_an_existing_tokenizer_and_a_corpus_that_is_only_evaluated_on(data: DataConfig, tmp_path: Path) -> None:
    tokenizer = prepare(data, TOKENIZER, tmp_path).tokenizer_path
    held_out = prepare_with(data, tokenizer, tmp_path, all_held_out=True)
    assert len(held_out.streams(TRAIN)[0]) == 0
    assert "".join(texts(held_out, VALIDATION)) == Path(data.files[0]).read_text(encoding="utf-8")  # type: ignore[attr-defined]


def _prepare_in_another_process(data: DataConfig, folder: Path, results: "multiprocessing.Queue[str]") -> None:
    results.put(prepare(data, TOKENIZER, folder).fingerprint)


def test_two_processes_at_once(data: DataConfig, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    arguments = (data, tmp_path, results)
    processes = [context.Process(target=_prepare_in_another_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    fingerprints = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(fingerprints) == 1
    assert len([path for path in (tmp_path / "shards").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("text", ["", "one short document, all of it for training\n"])
def test_too_little_text_leaves_nothing_behind(text: str, tmp_path: Path) -> None:
    path = tmp_path / "little.txt"
    path.write_text(text)
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"at least one (held-out )?document, but has none"):
        prepare(TextConfig(files=[str(path)]), TOKENIZER, cache)
    assert not [path for path in (cache / "shards").iterdir() if path.is_dir()]
