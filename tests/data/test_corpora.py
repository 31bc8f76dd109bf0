"""Corpora yield complete documents in a fixed order, with training and held-out text kept apart."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimind.data import text_corpora
from minimind.data.config import JsonlConfig, StdlibConfig, TextConfig
from minimind.data.corpora import build_corpus
from minimind.data.corpus import Corpus, Document
from minimind.data.text_corpora import StdlibCorpus
from minimind.utils.errors import ConfigError, UserError


def all_documents(corpus: Corpus) -> list[Document]:
    return [document for block in corpus.blocks() for document in corpus.documents(block)]


def test_stdlib_excludes_tests_tables_and_third_party_packages() -> None:
    corpus = StdlibCorpus(StdlibConfig())
    names = [path.relative_to(corpus.root).as_posix() for path in corpus.files]
    assert "argparse.py" in names
    assert not [n for n in names if n.startswith(("test/", "encodings/", "site-packages/")) or n.endswith("topics.py")]


def test_stdlib_tests_can_be_included() -> None:
    assert len(StdlibCorpus(StdlibConfig(include_tests=True)).files) >= len(StdlibCorpus(StdlibConfig()).files)


def test_a_stripped_stdlib_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os.py").write_text("pass\n")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(UserError, match=r"at least 1 MB of source code, but has 0\.00 MB.*data=text"):
        StdlibCorpus(StdlibConfig())


def test_a_single_text_file_is_split_at_line_breaks_without_loss(text_file: Path) -> None:
    documents = all_documents(build_corpus(TextConfig(files=[str(text_file)], block_kb=1)))
    assert "".join(d.text for d in documents) == text_file.read_text(encoding="utf-8")
    assert all(d.text.endswith("\n") for d in documents)
    assert {d.held_out for d in documents} == {True, False}


def test_separator_splits_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n---\ntwo\n---\n")
    documents = all_documents(build_corpus(TextConfig(files=[str(tmp_path / "*.txt")], separator="---\n")))
    assert [d.text for d in documents] == ["one\n", "two\n"]


def test_files_are_held_out_by_path_and_adding_one_moves_no_others(tmp_path: Path) -> None:
    def split() -> dict[str, bool]:
        corpus = build_corpus(TextConfig(files=[str(tmp_path / "*.txt")]))
        return {document.text: document.held_out for document in all_documents(corpus)}

    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    before = split()
    assert 1 <= sum(before.values()) <= 10
    (tmp_path / "another.txt").write_text("another")
    after = split()
    assert {text: after[text] for text in before} == before


def test_files_in_a_sibling_folder_move_no_others(tmp_path: Path) -> None:
    """The path relative to the fixed part of the pattern decides, not relative to the common parent of all files."""

    def split() -> dict[str, bool]:
        patterns = [str(folder / "**" / "*.txt") for folder in sorted(tmp_path.iterdir())]
        return {
            document.text: document.held_out for document in all_documents(build_corpus(TextConfig(files=patterns)))
        }

    for number in range(60):
        path = tmp_path / "b" / str(number % 3) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {number}")
    before = split()
    assert set(before.values()) == {True, False}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "new.txt").write_text("new")
    after = split()
    assert {text: after[text] for text in before} == before


@given(st.text(alphabet="ab-é\n", max_size=200), st.sampled_from(["-", "--", "-a", "é-"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_separators_are_found_across_read_boundaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, separator: str
) -> None:
    monkeypatch.setattr(text_corpora, "BLOCK_BYTES", 7)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    documents = all_documents(build_corpus(TextConfig(files=[str(path)], separator=separator)))
    assert [d.text for d in documents if d.text] == [part for part in text.split(separator) if part]


@pytest.mark.parametrize("letters", ["a b ", "日本"])
def test_a_file_without_line_breaks_is_split_between_words_or_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: str
) -> None:
    monkeypatch.setattr(text_corpora, "MAX_LINE_BYTES", 2000)
    path = tmp_path / "a.txt"
    path.write_text(letters * 3000, encoding="utf-8")
    documents = all_documents(build_corpus(TextConfig(files=[str(path)], block_kb=1)))
    assert "".join(d.text for d in documents) == letters * 3000
    assert max(len(d.text.encode()) for d in documents) < 4000


def test_validation_files_can_be_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    cfg = TextConfig(files=[str(tmp_path / "*.txt")], validation_files=[str(tmp_path / "b.txt")])
    assert {d.text: d.held_out for d in all_documents(build_corpus(cfg))} == {"a": False, "b": True, "c": False}


def test_jsonl_reads_the_field_and_skips_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps({"body": "héllo"}), "", json.dumps({"body": "two", "id": 2})]))
    documents = all_documents(build_corpus(JsonlConfig(files=[str(path)], text_field="body")))
    assert [d.text for d in documents] == ["héllo", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "line 2: must be a JSON object in UTF-8"),
        (
            b'{"txt": "a"}',
            'line 2: must have text in the field "text", but has txt; select another with data.text_field',
        ),
        (b"[1]", 'line 2: must have text in the field "text", but has list'),
        (b'{"text": "\xff"}', "line 2: must be a JSON object in UTF-8"),
    ],
)
def test_invalid_jsonl_is_reported_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"bad\.jsonl, " + message.replace("[", r"\[")):
        all_documents(build_corpus(JsonlConfig(files=[str(path)])))


def test_text_that_is_not_utf8_is_reported_by_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"line\n" * 1000 + b"caf\xe9")
    with pytest.raises(UserError, match=r"latin\.txt must be UTF-8 text, but byte 5003 is not"):
        all_documents(build_corpus(TextConfig(files=[str(tmp_path / "latin.txt")])))


def test_a_missing_file_and_an_empty_glob_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt is neither in"):
        build_corpus(TextConfig(files=[str(tmp_path / "nowhere.txt")]))
    with pytest.raises(UserError, match=r"\*\.md matches none"):
        build_corpus(TextConfig(files=[str(tmp_path / "*.md")]))
    with pytest.raises(ConfigError, match=r"data\.files"):
        TextConfig()
