"""JSONL corpus: one JSON object per line with the text in one field; plain, gzip or Zstandard."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from minimind.data.config import JsonlConfig
from minimind.data.corpus import BLOCK_BYTES, Document, RawBlock, make_document
from minimind.data.named_files import named_files
from minimind.utils.errors import UserError, missing_extra
from minimind.utils.files import parse_json


class JsonlCorpus:
    """JSON objects, one per line; held out by content, or by file if validation files are named."""

    def __init__(self, cfg: JsonlConfig) -> None:
        self.text_field, self.prompt_field = cfg.text_field, cfg.prompt_field
        self.files = named_files(cfg.files, cfg.validation_files)
        self.size = self.files.size

    def cache_key(self) -> Any:
        return self.files.cache_key()

    def blocks(self) -> Iterator[RawBlock]:
        for file in self.files.names:
            with file.open("rb") as raw, _decompressed(file, raw) as lines:
                number, position = 1, 0
                while records := lines.readlines(BLOCK_BYTES):
                    before, position = position, raw.tell()
                    yield RawBlock(str(file), number, records, position - before)
                    number += len(records)

    def documents(self, block: RawBlock) -> Iterator[Document]:
        by_file = self.files.held_out(block.file)
        for number, line in enumerate(block.records, start=block.first):
            if not line.isspace():
                where = f"{block.file}, line {number}"
                try:
                    parsed = parse_json(line)
                except ValueError as error:
                    raise UserError(
                        f"{where}: must be a JSON object in UTF-8, but cannot be parsed: {error}."
                    ) from None
                has_escapes = b"\\u" in line  # the only way to get an unpaired surrogate, which UTF-8 cannot encode
                text = _text(parsed, self.text_field, "text_field", where, has_escapes)
                prompt = None
                if self.prompt_field is not None:
                    prompt = _text(parsed, self.prompt_field, "prompt_field", where, has_escapes)
                yield make_document(text, prompt, by_file)


def _text(parsed: Any, field: str, option: str, where: str, has_escapes: bool) -> str:
    """Raises: UserError, which names the line and the option that selects the field."""
    text = parsed.get(field) if isinstance(parsed, dict) else None
    if not isinstance(text, str):
        fields = ", ".join(parsed) if isinstance(parsed, dict) else type(parsed).__name__
        raise UserError(
            f'{where}: must have text in the field "{field}", but has {fields or "no fields"}; '
            f"select another with data.{option}=…"
        )
    if has_escapes:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise UserError(
                f"{where}: must be valid Unicode, but has the unpaired surrogate {half!r}; fix it."
            ) from None
    return text


@contextmanager
def _decompressed(file: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """Raises: UserError, if the file is not in the format of its suffix, or is truncated."""
    stream: Any = raw
    errors: tuple[type[Exception], ...] = ()
    if file.suffix == ".gz":
        stream, errors = gzip.GzipFile(fileobj=raw), (EOFError, gzip.BadGzipFile, zlib.error)
    elif file.suffix == ".zst":
        try:
            from backports import zstd  # unlike `zstandard`, it detects a truncated file
        except ImportError:
            raise missing_extra("zstd", f"To read {file}") from None
        stream, errors = zstd.ZstdFile(raw), (EOFError, zstd.ZstdError)
    try:
        yield raw if stream is raw else cast(BinaryIO, io.BufferedReader(stream, BLOCK_BYTES))
    except errors as error:
        raise UserError(f"{file} must be a complete {file.suffix} file, but reading it failed: {error}.") from None
