"""Preparation is exact, done once, the same for any number of processes, and safe to run concurrently."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from minimind.data import prepare as module
from minimind.data.config import DataConfig, JsonlConfig, MixtureConfig, TextConfig
from minimind.data.corpora import build_corpus
from minimind.data.corpus import Document
from minimind.data.manifest import MANIFEST
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData, prepare, prepare_with
from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.config import TokenizerConfig
from minimind.utils.errors import UserError
from minimind.utils.files import read_json

TOKENIZER = TokenizerConfig(vocab_size=300)


@pytest.fixture
def data(text_file: Path) -> DataConfig:
    return TextConfig(files=[str(text_file)], block_kb=1)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.9 MB of records: several blocks, and several chunks of 200 kB."""
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    words = ["the", "cat", "sat", "on", "a", "mat", "naïve", "日本"]
    texts = (" ".join(words[(i * j + i) % len(words)] for j in range(120)) + f" {i}" for i in range(1500))
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def documents_of(data: DataConfig) -> Iterator[Document]:
    corpus = build_corpus(data)
    return (document for block in corpus.blocks() for document in corpus.documents(block))


def texts(prepared: PreparedData, split: str) -> list[str]:
    tokenizer = prepared.tokenizer
    return [
        tokenizer.decode(stream.document(i).tolist())
        for stream in prepared.streams(split)
        for i in range(stream.num_documents)
    ]


def shard_bytes(prepared: PreparedData) -> dict[str, bytes]:
    (source,) = prepared.sources
    return {str(p.relative_to(source.folder)): p.read_bytes() for p in sorted(source.folder.rglob("*")) if p.is_file()}


def test_shards_decode_to_the_exact_text_and_the_splits_are_disjoint(data: DataConfig, tmp_path: Path) -> None:
    documents = list(documents_of(data))
    prepared = prepare(data, TOKENIZER, tmp_path)
    assert texts(prepared, TRAIN) == [d.text for d in documents if not d.held_out]
    assert texts(prepared, VALIDATION) == [d.text for d in documents if d.held_out]
    assert not set(texts(prepared, TRAIN)) & set(texts(prepared, VALIDATION))
    assert prepared.streams(TRAIN)[0].text_bytes == sum(len(d.text.encode()) for d in documents if not d.held_out)


def test_data_is_prepared_once(data: DataConfig, tmp_path: Path) -> None:
    first = prepare(data, TOKENIZER, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert prepare(data, TOKENIZER, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_shards_are_identical_from_one_thread_all_threads_and_two_processes(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimind.data.prepare.CHUNK_BYTES", 200_000)
    tokenizer = prepare(JsonlConfig(files=[str(lines)]), TOKENIZER, tmp_path).tokenizer_path
    prepared = [
        prepare_with(JsonlConfig(files=[str(lines)], prepare_processes=processes), tokenizer, tmp_path / str(processes))
        for processes in (None, 1, 2)
    ]  # fmt: skip
    assert prepared[0].sources != prepared[1].sources
    assert len(prepared[0].streams(TRAIN)[0].shards) == 3
    assert prepared[0].fingerprint == prepared[1].fingerprint == prepared[2].fingerprint
    assert shard_bytes(prepared[0]) == shard_bytes(prepared[1]) == shard_bytes(prepared[2])
    documents = list(documents_of(JsonlConfig(files=[str(lines)])))
    assert texts(prepared[2], TRAIN) == [d.text for d in documents if not d.held_out]


def test_the_cache_depends_on_text_options_but_not_on_training_options(data: DataConfig, tmp_path: Path) -> None:
    first = prepare(data, TOKENIZER, tmp_path)
    assert prepare(data, TokenizerConfig(vocab_size=280), tmp_path).sources != first.sources
    assert prepare(TextConfig(files=data.files, separator=".\n"), TOKENIZER, tmp_path).sources != first.sources  # type: ignore[attr-defined]
    data.sequence_length, data.num_workers = 7, 3
    assert prepare(data, TOKENIZER, tmp_path).sources == first.sources


def test_a_corpus_for_evaluation_only_is_all_held_out(data: DataConfig, tmp_path: Path) -> None:
    tokenizer = prepare(data, TOKENIZER, tmp_path).tokenizer_path
    held_out = prepare_with(data, tokenizer, tmp_path, all_held_out=True)
    assert len(held_out.streams(TRAIN)[0]) == 0
    assert "".join(texts(held_out, VALIDATION)) == Path(data.files[0]).read_text(encoding="utf-8")  # type: ignore[attr-defined]


def test_the_manifest_describes_the_shards_and_their_origin(data: DataConfig, tmp_path: Path) -> None:
    prepared = prepare(data, TOKENIZER, tmp_path)
    documents = [d for d in documents_of(data) if not d.held_out]
    manifest = read_json(prepared.sources[0].folder / TRAIN / MANIFEST)
    size = sum(len(d.text.encode()) for d in documents)
    tokens = len(prepared.streams(TRAIN)[0])
    assert (manifest["documents"], manifest["bytes"], manifest["tokens"]) == (len(documents), size, tokens)
    assert manifest["bytes_per_token"] == size / tokens
    assert manifest["tokenizer"] == prepared.tokenizer.hash
    assert manifest["options"]["block_kb"] == 1
    assert set(manifest["versions"]) == {"minimind", "tokenizers", "python"}
    assert all(len(shard["sha256"]) == 64 for shard in manifest["shards"])


def test_a_mixture_shares_its_sources_and_one_tokenizer(data: DataConfig, lines: Path, tmp_path: Path) -> None:
    jsonl = {"kind": "jsonl", "files": [str(lines)], "weight": 3}
    text = {"kind": "text", "files": data.files, "block_kb": 1}  # type: ignore[attr-defined]
    mixture = prepare(MixtureConfig(sources={"talk": jsonl, "prose": text}), TOKENIZER, tmp_path)
    assert [(source.name, source.weight) for source in mixture.sources] == [("talk", 3.0), ("prose", 1.0)]
    assert len({stream.tokenizer_hash for stream in mixture.streams(TRAIN)}) == 1
    alone = prepare_with(data, mixture.tokenizer_path, tmp_path)
    assert alone.sources[0].folder == mixture.sources[1].folder
    other = MixtureConfig(sources={"renamed": text | {"weight": 9}})
    assert prepare_with(other, mixture.tokenizer_path, tmp_path).sources[0].folder == alone.sources[0].folder


def test_the_tokenizer_is_trained_on_each_source_in_proportion_to_its_weight(tmp_path: Path) -> None:
    """Nine tenths of the 1 MB sample are from one source, and the vocabulary has room for that source's word only."""
    for name, word in [("a", "gnu"), ("b", "yak")]:
        (tmp_path / f"{name}.txt").write_text("".join(f"{word}{i:05d}\n" for i in range(110_000)))
    sources = {name: {"kind": "text", "files": [str(tmp_path / f"{name}.txt")]} for name in "ab"}

    def tokenizer(weight: float) -> set[str]:
        mixture = MixtureConfig(sources={"a": sources["a"] | {"weight": weight}, "b": sources["b"]})
        path = module._train_tokenizer(module._sources(mixture), TokenizerConfig(vocab_size=275, sample_mb=1), tmp_path)
        return set(BPE.load(path).tokenizer.get_vocab())

    assert "gnu" in tokenizer(9)
    assert "yak" in tokenizer(1 / 9)
    assert "gnu" not in tokenizer(1 / 9)


def test_an_error_in_a_source_names_the_source(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{bad\n')
    good = {"kind": "text", "files": data.files, "block_kb": 1}  # type: ignore[attr-defined]
    mixture = MixtureConfig(sources={"good": good, "talk": {"kind": "jsonl", "files": [str(tmp_path / "bad.jsonl")]}})
    tokenizer = prepare(data, TOKENIZER, tmp_path).tokenizer_path
    with pytest.raises(UserError, match=r"Source talk: .*bad\.jsonl, line 2: must be a JSON object"):
        prepare_with(mixture, tokenizer, tmp_path)


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


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and texts: several blocks, and several chunks of 200 kB."""
    path = tmp_path_factory.mktemp("pairs") / "a.jsonl"
    words = ["the", "cat", "sat", "on", "a", "mat", "naïve", "日本"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(1500):
            prompt, text = (" ".join(words[(i * j + i + k) % len(words)] for j in range(k)) + f" {i}" for k in (20, 80))
            file.write(json.dumps({"prompt": prompt + "\n", "text": text}, ensure_ascii=False) + "\n")
    return path


def test_prompts_are_not_targets_for_any_number_of_processes(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimind.data.prepare.CHUNK_BYTES", 200_000)
    data = JsonlConfig(files=[str(pairs)], prompt_field="prompt")
    tokenizer = prepare(data, TOKENIZER, tmp_path).tokenizer_path
    prepared = []
    for processes in (None, 1, 2):
        data.prepare_processes = processes
        prepared.append(prepare_with(data, tokenizer, tmp_path / str(processes)))
    assert shard_bytes(prepared[0]) == shard_bytes(prepared[1]) == shard_bytes(prepared[2])
    bpe, stream = BPE.load(tokenizer), prepared[2].streams(TRAIN)[0]
    assert len(stream.shards) > 1
    documents = [d for d in documents_of(data) if not d.held_out]
    assert stream.num_documents == len(documents)
    assert stream.text_bytes == sum(len(d.pieces[1].text.encode()) for d in documents)
    for number, document in enumerate(documents):
        start, stop = stream.bounds(number)
        ids, targets = stream.read(start, stop), stream.read_targets(start, stop)
        assert bpe.decode(ids[~targets].tolist()) == document.pieces[0].text
        assert bpe.decode(ids[targets].tolist()) == document.pieces[1].text
        assert targets[-1]  # <|endoftext|>


def test_an_option_that_was_added_later_does_not_invalidate_caches(lines: Path, tmp_path: Path) -> None:
    """The cache key is the same as before `data.prompt_field` existed, for a single source and in a mixture."""
    (alone,) = module._sources(JsonlConfig(files=[str(lines)]))
    mixed = {"kind": "jsonl", "files": [str(lines)]}
    for source in [alone, *module._sources(MixtureConfig(sources={"a": mixed, "b": mixed | {"prompt_field": None}}))]:
        assert source.cache_key["options"] == {"kind": "jsonl", "validation_files": [], "text_field": "text"}
    (other,) = module._sources(JsonlConfig(files=[str(lines)], prompt_field="id"))
    assert other.cache_key["options"] == {**alone.cache_key["options"], "prompt_field": "id"}
