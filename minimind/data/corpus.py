"""The corpus interface: raw records in a fixed order, and the documents parsed from them."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

HELD_OUT_ONE_IN = 20
BLOCK_BYTES = 1 << 18  # raw text per read


class Piece(NamedTuple):
    """Part of a document that is either all target or all context, such as a prompt."""

    text: str
    is_target: bool


@dataclass(frozen=True)
class Document:
    text: str
    held_out: bool
    pieces: tuple[Piece, ...] = ()  # the text in pieces that are encoded separately; empty: all of it is a target

    @classmethod
    def from_pieces(cls, pieces: Iterable[Piece], held_out: bool) -> "Document":
        pieces = tuple(pieces)
        return cls("".join(piece.text for piece in pieces), held_out, pieces)

    @property
    def target_bytes(self) -> int:
        """Number of UTF-8 bytes that are targets."""
        texts = [piece.text for piece in self.pieces if piece.is_target] if self.pieces else [self.text]
        return sum(len(text.encode()) for text in texts)


class RawBlock(NamedTuple):
    """Consecutive unparsed records of one file."""

    file: str
    first: int  # position of the first record: a line, row or byte number, depending on the corpus
    records: list[bytes]
    bytes_read: int  # from the file, before decompression; for the progress bar


class Corpus(Protocol):
    """A source of documents. One process iterates over `blocks`, which only reads; workers call `documents` to parse.

    A corpus is pickled and sent to the workers, so it holds names and options, but no open files.
    """

    @property
    def size(self) -> int | None:
        """Total bytes of the files; None: unknown."""
        ...

    def cache_key(self) -> Any:
        """JSON value that changes whenever the text does."""
        ...

    def blocks(self) -> Iterator[RawBlock]:
        """Raises: UserError, if a file cannot be read."""
        ...

    def documents(self, block: RawBlock) -> Iterator[Document]:
        """Raises: UserError, if a record is invalid."""
        ...


def make_document(text: str, prompt: str | None, held_out: bool | None) -> Document:
    """Make the document of a record: the prompt, if any, as context, directly followed by the text as target.

    Args:
        held_out: None: decide by a hash of prompt and text.
    """
    if held_out is None:
        held_out = is_held_out((prompt or "") + text)
    if prompt is None:
        return Document(text, held_out)
    return Document.from_pieces([Piece(prompt, False), Piece(text, True)], held_out)


def is_held_out(name: str) -> bool:
    """Hold out one in twenty by a hash of a file's name or a record's text, so that new text does not move old."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0
