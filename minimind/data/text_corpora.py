"""Plain text corpora: the standard library's source code, and the user's own files."""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minimind.data.config import StdlibConfig, TextConfig
from minimind.data.corpus import BLOCK_BYTES, Document, RawBlock, is_held_out
from minimind.data.named_files import file_stats, find_files, named_files
from minimind.utils.errors import UserError
from minimind.utils.terminal import say

MIN_STDLIB_BYTES = 1_000_000
MAX_LINE_BYTES = 1 << 20  # longer lines are split at a space, so that documents always fit into memory


class StdlibCorpus:
    """Python files of the standard library without tests and generated tables; held out by path."""

    def __init__(self, cfg: StdlibConfig) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))
        self.include_tests = cfg.include_tests
        self.files = sorted(path for path in self.root.rglob("*.py") if self._belongs(path.relative_to(self.root)))
        self.validation_files = set(find_files(cfg.validation_files, "data.validation_files"))
        self.size = sum(path.stat().st_size for path in self.files)
        if self.size < MIN_STDLIB_BYTES:
            raise UserError(
                f"The standard library in {self.root} must have at least 1 MB of source code, but has "
                f"{self.size / 1e6:.2f} MB (a stripped Python); use your own text with data=text data.files='[...]'."
            )
        if not (self.root / "pydoc.py").is_file() or not (self.root / "tkinter").is_dir():
            say(f"The standard library in {self.root} is incomplete; using the {self.size / 1e6:.1f} MB that it has.",
                file=sys.stderr)  # fmt: skip

    def _belongs(self, path: Path) -> bool:
        tests = {"test", "tests", "idle_test", "lib2to3_tests"}
        generated = path.parts[0] == "encodings" or path.as_posix() == "pydoc_data/topics.py"
        third_party = {"site-packages", "dist-packages", "__pycache__"} & set(path.parts)
        return not (third_party or generated or (not self.include_tests and tests & set(path.parts)))

    def cache_key(self) -> Any:
        return file_stats(self.files)

    def blocks(self) -> Iterator[RawBlock]:
        for file in self.files:
            raw = file.read_bytes()
            yield RawBlock(str(file), 0, [raw], len(raw))

    def documents(self, block: RawBlock) -> Iterator[Document]:
        file = Path(block.file)
        held_out = is_held_out(file.relative_to(self.root).as_posix())
        if self.validation_files:
            held_out = file.resolve() in self.validation_files
        for raw in block.records:
            try:
                yield Document(raw.decode("utf-8"), held_out)
            except UnicodeDecodeError:  # some test files deliberately use other encodings
                continue


class TextCorpus:
    """Text files, split into documents; held out by path, or by content if all paths would be in the same split."""

    def __init__(self, cfg: TextConfig) -> None:
        self.separator = cfg.separator.encode() if cfg.separator is not None else None
        self.block_bytes = cfg.block_kb * 1024
        self.files = named_files(cfg.files, cfg.validation_files)
        self.size = self.files.size
        by_path = {str(file): is_held_out(name) for file, name in self.files.names.items()}
        if self.files.validation:
            by_path = {str(file): file in self.files.validation for file in self.files.names}
        self.held_out_by_path = by_path if len(set(by_path.values())) == 2 else None

    def cache_key(self) -> Any:
        return [(*stats, name) for stats, name in zip(self.files.cache_key(), self.files.names.values(), strict=True)]

    def blocks(self) -> Iterator[RawBlock]:
        for path in self.files.names:
            with path.open("rb") as file:
                position = 0
                separator = self.separator
                blocks = self._split_at_lines(file) if separator is None else _split_at_separators(file, separator)
                for records in blocks:
                    size = sum(map(len, records))
                    yield RawBlock(str(path), position, records, size)
                    position += size

    def documents(self, block: RawBlock) -> Iterator[Document]:
        position = block.first
        for raw in block.records:
            try:
                text = raw.removesuffix(self.separator or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{block.file} must be UTF-8 text, but byte {position + error.start} is not; convert the file."
                ) from None
            by_path = self.held_out_by_path
            yield Document(text, is_held_out(text) if by_path is None else by_path[block.file])
            position += len(raw)

    def _split_at_lines(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """Yield lists of documents: blocks of `block_kb`, each extended to the next line break."""
        records: list[bytes] = []
        while record := file.read(self.block_bytes):
            if not record.endswith(b"\n"):
                record += file.readline(MAX_LINE_BYTES)
                if len(record) >= MAX_LINE_BYTES and not record.endswith(b"\n"):
                    record = _split_at_space(file, record)
            records.append(record)
            if sum(map(len, records)) >= BLOCK_BYTES:
                yield records
                records = []
        if records:
            yield records


def _split_at_space(file: BinaryIO, record: bytes) -> bytes:
    """Truncate an overlong line after its last space, or before its last character, and seek back to the cut."""
    end = record.rfind(b" ") + 1
    if end == 0:
        end = len(record) - 1
        while end > 1 and record[end] & 0xC0 == 0x80:  # a UTF-8 continuation byte
            end -= 1
    file.seek(end - len(record), 1)
    return record[:end]


def _split_at_separators(file: BinaryIO, separator: bytes) -> Iterator[list[bytes]]:
    rest = b""
    while read := file.read(BLOCK_BYTES):
        *complete, rest = (rest + read).split(separator)
        if complete:
            yield [record + separator for record in complete]
    if rest:
        yield [rest]
