"""What a corpus is: raw records in a fixed order, cheap to read, and the documents that are in them."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

HELD_OUT_ONE_IN = 20
BLOCK_BYTES = 1 << 18  # raw text read at a time


class Piece(NamedTuple):
    """Part of a document that is a target as a whole, or is context only, such as a prompt."""

    text: str
    is_target: bool


@dataclass(frozen=True)
class Document:
    text: str
    held_out: bool
    pieces: tuple[Piece, ...] = ()  # the text in pieces, which are encoded one by one; none: all of it is a target

    @classmethod
    def of_pieces(cls, pieces: Iterable[Piece], held_out: bool) -> "Document":
        pieces = tuple(pieces)
        return cls("".join(piece.text for piece in pieces), held_out, pieces)

    @property
    def target_bytes(self) -> int:
        """UTF-8 bytes of the text that is a target."""
        texts = [piece.text for piece in self.pieces if piece.is_target] if self.pieces else [self.text]
        return sum(len(text.encode()) for text in texts)


class RawBlock(NamedTuple):
    """Records that follow each other in one file, as raw as they are there."""

    file: str
    first: int  # where the first of them is: a line, a row, or a byte, as the corpus counts
    records: list[bytes]
    read: int  # bytes of the file that were read for them, for the progress bar


class Corpus(Protocol):
    """Reading is one process' work and does little; `documents` is the workers' and does the rest.

    A corpus travels to the workers: it holds names and options, no open files.
    """

    @property
    def size(self) -> int | None:
        """Bytes of its files; None: not known."""
        ...

    def made_of(self) -> Any:
        """What tells one version of the text from another, as JSON."""
        ...

    def blocks(self) -> Iterator[RawBlock]:
        """Raises: UserError, if a file cannot be read."""
        ...

    def documents(self, block: RawBlock) -> Iterator[Document]:
        """Raises: UserError, if a record is not what it should be."""
        ...


def document_of(text: str, prompt: str | None, held_out: bool | None) -> Document:
    """The document of a record: its text, after a prompt that is no target if it has one; nothing between the two.

    Args:
        held_out: None: what the record says decides, the prompt included.
    """
    if held_out is None:
        held_out = is_held_out((prompt or "") + text)
    if prompt is None:
        return Document(text, held_out)
    return Document.of_pieces([Piece(prompt, False), Piece(text, True)], held_out)


def is_held_out(name: str) -> bool:
    """One in twenty, by the name of the file or the text of the record, so that added text moves nothing."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0
