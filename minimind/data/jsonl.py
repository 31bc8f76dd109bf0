"""One JSON object a line, its text in one field; plain, gzip or Zstandard."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from minimind.data.config import JsonlConfig
from minimind.data.corpus import BLOCK_BYTES, Document, RawBlock, document_of
from minimind.data.named_files import named_files
from minimind.utils.errors import UserError, missing_extra
from minimind.utils.files import parse_json


class JsonlCorpus:
    """Held out by content, or by file where files are named for it."""

    def __init__(self, cfg: JsonlConfig) -> None:
        self.text_field, self.prompt_field = cfg.text_field, cfg.prompt_field
        self.files = named_files(cfg.files, cfg.validation_files)
        self.size = self.files.size

    def made_of(self) -> Any:
        return self.files.made_of()

    def blocks(self) -> Iterator[RawBlock]:
        for file in self.files.names:
            with file.open("rb") as raw, _decompressed(file, raw) as lines:
                number, place = 1, 0
                while records := lines.readlines(BLOCK_BYTES):
                    before, place = place, raw.tell()
                    yield RawBlock(str(file), number, records, place - before)
                    number += len(records)

    def documents(self, block: RawBlock) -> Iterator[Document]:
        by_file = self.files.held_out(block.file)
        for number, line in enumerate(block.records, start=block.first):
            if not line.isspace():
                where = f"{block.file}, line {number}"
                try:
                    parsed = parse_json(line)
                except ValueError as error:
                    raise UserError(f"{where}: must be a JSON object in UTF-8, but: {error}.") from None
                may_be_half = b"\\u" in line  # only so can half of a surrogate pair come in, which no UTF-8 can hold
                text = _text(parsed, self.text_field, "text_field", where, may_be_half)
                prompt = None
                if self.prompt_field is not None:
                    prompt = _text(parsed, self.prompt_field, "prompt_field", where, may_be_half)
                yield document_of(text, prompt, by_file)


def _text(parsed: Any, field: str, option: str, where: str, may_be_half: bool) -> str:
    """Raises: UserError, naming `where` and the option that names another field."""
    text = parsed.get(field) if isinstance(parsed, dict) else None
    if not isinstance(text, str):
        fields = ", ".join(parsed) if isinstance(parsed, dict) else type(parsed).__name__
        raise UserError(
            f'{where}: must have text in the field "{field}", but has {fields or "no fields"}; '
            f"name another with data.{option}=…"
        )
    if may_be_half:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise UserError(f"{where}: must be whole characters, but has {half!r}; mend it.") from None
    return text


@contextmanager
def _decompressed(file: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """Raises: UserError, if the file is not compressed as its suffix says, or ends too early."""
    stream: Any = raw
    broken: tuple[type[Exception], ...] = ()
    if file.suffix == ".gz":
        stream, broken = gzip.GzipFile(fileobj=raw), (EOFError, gzip.BadGzipFile, zlib.error)
    elif file.suffix == ".zst":
        try:
            from backports import zstd  # unlike `zstandard`, it tells a file cut short from one that ends
        except ImportError:
            raise missing_extra("zstd", f"To read {file}") from None
        stream, broken = zstd.ZstdFile(raw), (EOFError, zstd.ZstdError)
    try:
        yield raw if stream is raw else cast(BinaryIO, io.BufferedReader(stream, BLOCK_BYTES))
    except broken as error:
        raise UserError(f"{file} must be a whole {file.suffix} file, but: {error}.") from None
