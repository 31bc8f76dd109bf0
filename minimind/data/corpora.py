"""Where text comes from: each corpus is a stream of documents, each marked as training or held-out text."""

import glob
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minimind.data.config import DataConfig, JsonlConfig, StdlibConfig, TextConfig
from minimind.utils.errors import UserError
from minimind.utils.paths import find_existing

HELD_OUT_ONE_IN = 20
SMALLEST_STDLIB_BYTES = 1_000_000
STDLIB_PROMPTS = ["def read_file(path", "class Stack:\n    def __init__(self", "def main():\n    parser = "]


@dataclass(frozen=True)
class Document:
    text: str
    held_out: bool


class Corpus(Protocol):
    """Files in a fixed order, and the documents in them."""

    files: list[Path]

    def documents(self, file: Path) -> Iterator[Document]:
        """Raises: UserError, if the file is not what it should be."""
        ...


def is_held_out(name: str) -> bool:
    """One in twenty, by the name of the file or the text of the record, so that added text moves nothing."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def read_utf8(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} must be UTF-8 text, but byte {error.start} is not; convert the file.") from None


def find_files(patterns: list[str], what: str) -> list[Path]:
    """Files and globs, in the order named and without repeats.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        files = [path for match in matches if (path := find_existing(match, f"A file of {what}")).is_file()]
        if not files:
            raise UserError(f"{what} must name files, but {pattern} matches none.")
        found.update(dict.fromkeys(files))
    return list(found)


class StdlibCorpus:
    """Every Python file of the standard library but tests and generated tables; held out by path."""

    def __init__(self, cfg: StdlibConfig) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))
        self.include_tests = cfg.include_tests
        self.files = sorted(path for path in self.root.rglob("*.py") if self._belongs(path.relative_to(self.root)))
        self.validation_files = set(find_files(cfg.validation_files, "data.validation_files"))
        size = sum(path.stat().st_size for path in self.files)
        if size < SMALLEST_STDLIB_BYTES:
            raise UserError(
                f"The standard library in {self.root} must have at least 1 MB of source, but has {size / 1e6:.2f} MB "
                "(a stripped Python); use data=text data.files='[...]' with text of your own."
            )
        if not (self.root / "pydoc.py").is_file() or not (self.root / "tkinter").is_dir():
            print(f"The standard library in {self.root} is incomplete; using the {size / 1e6:.1f} MB that are there.",
                  file=sys.stderr)  # fmt: skip

    def _belongs(self, path: Path) -> bool:
        tests = {"test", "tests", "idle_test", "lib2to3_tests"}
        generated = path.parts[0] == "encodings" or path.as_posix() == "pydoc_data/topics.py"
        foreign = {"site-packages", "dist-packages", "__pycache__"} & set(path.parts)
        return not (foreign or generated or (not self.include_tests and tests & set(path.parts)))

    def documents(self, file: Path) -> Iterator[Document]:
        held_out = is_held_out(file.relative_to(self.root).as_posix())
        if self.validation_files:
            held_out = file.resolve() in self.validation_files
        try:
            yield Document(read_utf8(file), held_out)
        except UserError:
            return  # a few test files are in other encodings on purpose


class TextCorpus:
    """Files of text, cut into documents; held out by path, or by content where one file is the whole corpus."""

    def __init__(self, cfg: TextConfig) -> None:
        self.cfg = cfg
        self.files, self.validation_files = _named_files(cfg.files, cfg.validation_files)
        root = os.path.commonpath([file.parent for file in self.files])
        by_path = {file: is_held_out(file.relative_to(root).as_posix()) for file in self.files}
        if self.validation_files:
            by_path = {file: file in self.validation_files for file in self.files}
        self.by_path = by_path if len(set(by_path.values())) == 2 else None

    def documents(self, file: Path) -> Iterator[Document]:
        for text in self._cut(read_utf8(file)):
            yield Document(text, is_held_out(text) if self.by_path is None else self.by_path[file])

    def _cut(self, text: str) -> Iterator[str]:
        if self.cfg.separator is not None:
            yield from (part for part in text.split(self.cfg.separator) if part)
            return
        block, size = [], 0
        for line in text.splitlines(keepends=True):
            block.append(line)
            size += len(line.encode())
            if size >= self.cfg.block_kb * 1024:
                yield "".join(block)
                block, size = [], 0
        if block:
            yield "".join(block)


class JsonlCorpus:
    """One JSON object a line, its text in one field; held out by content."""

    def __init__(self, cfg: JsonlConfig) -> None:
        self.field = cfg.text_field
        self.files, self.validation_files = _named_files(cfg.files, cfg.validation_files)

    def documents(self, file: Path) -> Iterator[Document]:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                text = self._text(line, f"{file}, line {number}")
                held_out = file in self.validation_files if self.validation_files else is_held_out(text)
                yield Document(text, held_out)

    def _text(self, line: bytes, where: str) -> str:
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: must be a JSON object in UTF-8, but: {error}.") from None
        if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
            fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise UserError(
                f'{where}: must have text in the field "{self.field}", but has {fields or "no fields"}; '
                "name another with data.text_field=…"
            )
        return record[self.field]


def build_corpus(cfg: DataConfig) -> Corpus:
    if isinstance(cfg, StdlibConfig):
        return StdlibCorpus(cfg)
    if isinstance(cfg, TextConfig):
        return TextCorpus(cfg)
    if isinstance(cfg, JsonlConfig):
        return JsonlCorpus(cfg)
    raise TypeError(f"No corpus for {type(cfg).__name__}.")


def _named_files(files: list[str], validation_files: list[str]) -> tuple[list[Path], set[Path]]:
    """All files in order, and which of them are held out by name."""
    held_out = find_files(validation_files, "data.validation_files")
    return list(dict.fromkeys([*find_files(files, "data.files"), *held_out])), set(held_out)
