"""Compressed files and tables yield the same documents as plain JSONL; invalid files and settings are reported."""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd

from minimind.data.config import (
    CORPUS_CONFIGS,
    DataConfig,
    HuggingFaceConfig,
    JsonlConfig,
    MixtureConfig,
    ParquetConfig,
    TextConfig,
)
from minimind.data.corpora import build_corpus
from minimind.data.corpus import Document, is_held_out
from minimind.utils.errors import ConfigError, UserError

TEXTS = [f"naïve text number {number}, {'日本 ' * (number % 50)}" for number in range(600)]
LINES = b"".join(json.dumps({"text": text, "id": i}).encode() + b"\n" for i, text in enumerate(TEXTS))


def all_documents(cfg: DataConfig) -> list[Document]:
    corpus = build_corpus(cfg)
    return [document for block in corpus.blocks() for document in corpus.documents(block)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records in every format."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "a.jsonl").write_bytes(LINES)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    (folder / "a.jsonl.zst").write_bytes(zstd.compress(LINES[:half]) + zstd.compress(LINES[half:]))
    table = pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=100)
    dictionary = table.set_column(1, "text", table["text"].dictionary_encode())
    pyarrow.parquet.write_table(dictionary, folder / "dictionary.parquet", row_group_size=250)
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_bytes(LINES)
    datasets.Dataset(table).save_to_disk(str(folder / "stored"))
    datasets.DatasetDict(train=datasets.Dataset(table)).save_to_disk(str(folder / "splits"))
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> list[Document]:
    documents = all_documents(JsonlConfig(files=[str(folder / "a.jsonl")]))
    assert [document.text for document in documents] == TEXTS
    assert {document.held_out for document in documents} == {True, False}
    return documents


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_compressed_jsonl_yields_the_same_documents(folder: Path, plain: list[Document], name: str) -> None:
    assert all_documents(JsonlConfig(files=[str(folder / name)])) == plain


@pytest.mark.parametrize("name", ["a.parquet", "dictionary.parquet"])
def test_a_parquet_column_yields_the_same_documents(folder: Path, plain: list[Document], name: str) -> None:
    assert all_documents(ParquetConfig(files=[str(folder / name)])) == plain


@pytest.mark.parametrize("name", ["hub", "stored", "splits"])
def test_a_hugging_face_folder_yields_the_same_documents(
    folder: Path, plain: list[Document], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert all_documents(HuggingFaceConfig(dataset=str(folder / name))) == plain


def test_progress_adds_up_to_the_size_of_the_files(folder: Path) -> None:
    for kind, name in [
        ("jsonl", "a.jsonl"),
        ("jsonl", "a.jsonl.gz"),
        ("jsonl", "a.jsonl.zst"),
        ("parquet", "a.parquet"),
    ]:
        corpus = build_corpus(CORPUS_CONFIGS[kind](files=[str(folder / name)]))  # type: ignore[call-arg]
        assert corpus.size is not None
        assert sum(block.bytes_read for block in corpus.blocks()) == pytest.approx(corpus.size, abs=3)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_truncated_file_is_rejected(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((folder / name).read_bytes()[:-30])
    kind = ParquetConfig if name.endswith("parquet") else JsonlConfig
    with pytest.raises(UserError, match=rf"{name} must be a complete"):
        all_documents(kind(files=[str(tmp_path / name)]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"]}, "must have the column text, but has body; select another with data.text_field"),
        ({"text": [1]}, "the column text must be text, but is int64"),
        ({"text": ["a", None]}, "row 1: must have text, but column text is null"),
    ],
)
def test_a_column_that_is_not_text_is_rejected(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        all_documents(ParquetConfig(files=[str(tmp_path / "a.parquet")]))


def test_a_missing_split_is_reported(folder: Path) -> None:
    for name in ("hub", "splits"):
        with pytest.raises(UserError, match="must be a dataset with the split tset"):
            all_documents(HuggingFaceConfig(dataset=str(folder / name), split="tset"))
    with pytest.raises(UserError, match=r"data\.dataset must exist, but \./nowhere is neither in"):
        build_corpus(HuggingFaceConfig(dataset="./nowhere"))


@pytest.mark.parametrize("name", ["stored", "hub"])
def test_a_damaged_dataset_is_reported_in_one_line(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(folder / name, tmp_path / name)
    for file in (tmp_path / name).iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=name) as raised:
        all_documents(HuggingFaceConfig(dataset=str(tmp_path / name)))
    assert len(str(raised.value).splitlines()) == 1


def test_a_dataset_script_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(UserError, match=r"must be a dataset with the split train, but .* is not: ") as raised:
        all_documents(HuggingFaceConfig(dataset=str(tmp_path / "set")))
    assert not (tmp_path / "executed").exists()
    assert "trust_remote_code" not in str(raised.value)


def test_an_unpaired_surrogate_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n{"text": "a\\ud83db"}\n')
    with pytest.raises(
        UserError, match=r"a\.jsonl, line 2: must be valid Unicode, but has the unpaired surrogate '\\ud83d'"
    ):
        all_documents(JsonlConfig(files=[str(tmp_path / "a.jsonl")]))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": "a", "n": ' + "9" * 5000 + "}", '"\xff"'])
def test_an_unparsable_line_is_reported(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n', encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: must be a JSON object in UTF-8, but"):
        all_documents(JsonlConfig(files=[str(tmp_path / "a.jsonl")]))


@pytest.mark.parametrize(
    ("package", "cfg", "extra"),
    [
        ("backports", JsonlConfig(files=["a.jsonl.zst"]), "zstd"),
        ("pyarrow.parquet", ParquetConfig(files=["a.parquet"]), "parquet"),
        ("datasets", HuggingFaceConfig(dataset="hub"), "huggingface"),
    ],
)
def test_a_missing_package_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, cfg: DataConfig, extra: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'minimind\[{extra}\]'"):
        all_documents(cfg)


def test_a_mixture_parses_its_sources_and_weights() -> None:
    sources = {"code": {"kind": "text", "files": ["a"], "block_kb": 4, "weight": 2}, "b": {"kind": "stdlib"}}
    weighted = MixtureConfig(sources=sources).weighted_sources()
    assert weighted["code"] == (2.0, TextConfig(files=["a"], block_kb=4))
    assert weighted["b"] == (1.0, CORPUS_CONFIGS["stdlib"]())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("jsonl", r"`data\.sources\.a\.kind` must be one of stdlib, .*, but is jsonl"),
        ({"files": ["x"]}, r"`data\.sources\.a\.kind` must be one of stdlib, .*, but is None"),
        ({"kind": "mixture"}, r"`data\.sources\.a\.kind` must be one of stdlib, .*, but is mixture"),
        ({"kind": "jsonl"}, r"`data\.sources\.a\.files` must name files for data=jsonl"),
        ({"kind": "jsonl", "fils": ["x"]}, r"`data\.sources\.a\.fils` is not a setting; did you mean `files`\?"),
        ({"kind": "stdlib", "sequence_length": 5}, r"`data\.sources\.a\.sequence_length` is not a setting"),
        (
            {"kind": "text", "files": ["x"], "block_kb": "big"},
            r"`data\.sources\.a\.block_kb`: Value 'big' of type 'str'",
        ),
        ({"kind": "text", "files": ["x"], "block_kb": 0}, r"`data\.sources\.a\.block_kb` must be at least 1, but is 0"),
        ({"kind": "stdlib", "weight": 0}, r"`data\.sources\.a\.weight` must be a number above 0, but is 0"),
        ({"kind": "stdlib", "weight": "much"}, r"`data\.sources\.a\.weight` must be a number above 0, but is much"),
    ],
)
def test_an_invalid_setting_of_a_source_is_reported(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureConfig(sources={"a": source})


def test_all_errors_of_a_mixture_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MixtureConfig(sources={"a": {"kind": "jsonl", "weight": -1, "x": 1}, "b/c": {}})
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match=r"`data\.sources` must name the corpora"):
        MixtureConfig()


PROMPTS = [f"question {number}: naïve 日本?\n" * (number % 3) for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataConfig]:
    """The same prompts and texts in every format that supports prompts."""
    folder = tmp_path_factory.mktemp("pairs")
    records = [{"text": text, "id": i, "prompt": PROMPTS[i]} for i, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    table = pyarrow.Table.from_pylist(records)
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=100)
    datasets.Dataset(table).save_to_disk(str(folder / "stored"))
    return {
        "jsonl": JsonlConfig(files=[str(folder / "a.jsonl")], prompt_field="prompt"),
        "parquet": ParquetConfig(files=[str(folder / "a.parquet")], prompt_field="prompt"),
        "huggingface": HuggingFaceConfig(dataset=str(folder / "stored"), prompt_field="prompt"),
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface"])
def test_a_prompt_precedes_the_text_and_is_not_a_target(
    kind: str, pairs: dict[str, DataConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    documents = all_documents(pairs[kind])
    assert [document.pieces for document in documents] == [
        ((prompt, False), (text, True)) for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    assert [document.text for document in documents] == [p + t for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert [document.held_out for document in documents] == [is_held_out(d.text) for d in documents]  # by both
    assert sum(document.target_bytes for document in documents) == sum(len(text.encode()) for text in TEXTS)


def test_progress_with_two_columns_adds_up_to_the_size_of_the_file(pairs: dict[str, DataConfig]) -> None:
    corpus = build_corpus(pairs["parquet"])
    assert sum(block.bytes_read for block in corpus.blocks()) == pytest.approx(corpus.size, abs=6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"text": "a"}',
            r'line 1: must have text in the field "q", but has text; select another with data\.prompt_field',
        ),
        ('{"text": "a", "q": 1}', r'line 1: must have text in the field "q"'),
        ('{"q": "a"}', r'line 1: must have text in the field "text", but has q; select another with data\.text_field'),
        ('{"text": "a", "q": "\\ud83d"}', r"line 1: must be valid Unicode, but has the unpaired surrogate '\\ud83d'"),
    ],
)
def test_a_record_with_an_invalid_prompt_is_reported(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    with pytest.raises(UserError, match=message):
        all_documents(JsonlConfig(files=[str(tmp_path / "a.jsonl")], prompt_field="q"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, r"must have the column q, but has text; select another with data\.prompt_field"),
        ({"text": ["a"], "q": [1]}, r"the column q must be text, but is int64; select another with data\.prompt_field"),
        ({"text": ["a", "b"], "q": ["a", None]}, r"row 1: must have text, but column q is null"),
    ],
)
def test_a_prompt_column_that_is_not_text_is_rejected(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        all_documents(ParquetConfig(files=[str(tmp_path / "a.parquet")], prompt_field="q"))


def test_prompt_and_text_must_be_different_fields() -> None:
    with pytest.raises(ConfigError, match=r"`data\.prompt_field` must differ from `data\.text_field`, but both"):
        JsonlConfig(files=["a"], prompt_field="text")
    with pytest.raises(ConfigError, match=r"`data\.sources\.a\.prompt_field` must differ"):
        MixtureConfig(sources={"a": {"kind": "jsonl", "files": ["x"], "prompt_field": "text"}})
