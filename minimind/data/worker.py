"""Encoding: raw records → tokens, and a process of its own that does it.

Started as a program and not by multiprocessing: that would import the caller's main module again, and its pools hang
for ever when a worker is killed while a large batch is on the way (Python 3.11).
"""

import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from subprocess import DEVNULL
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minimind.data.corpus import Corpus, Document, RawBlock
from minimind.tokenizer.bpe import BPE
from minimind.utils.child import environment, python_module, start
from minimind.utils.errors import UserError


class Tokens(NamedTuple):
    """Documents one after another, each with its <|endoftext|>."""

    ids: NDArray[np.unsignedinteger]
    lengths: NDArray[np.int64]  # tokens of each document
    text_bytes: int  # of the text that is a target
    targets: NDArray[np.bool_] | None = None  # whether each token is one; None: all are


@dataclass(frozen=True)
class Encoder:
    """Turns raw records into (training tokens, held-out tokens)."""

    corpus: Corpus
    bpe: BPE
    dtype: np.dtype
    all_held_out: bool

    def encode(self, blocks: list[RawBlock]) -> tuple[Tokens, Tokens]:
        documents: tuple[list[Document], list[Document]] = ([], [])
        for block in blocks:
            for document in self.corpus.documents(block):
                if document.text:
                    documents[self.all_held_out or document.held_out].append(document)
        return self._tokens(documents[False]), self._tokens(documents[True])

    def _tokens(self, documents: list[Document]) -> Tokens:
        text_bytes = sum(document.target_bytes for document in documents)
        if not any(document.pieces for document in documents):
            ids, lengths = self.bpe.encode_documents([document.text for document in documents], self.dtype)
            return Tokens(ids, lengths, text_bytes)
        pieces = [document.pieces or [(document.text, True)] for document in documents]
        ids, lengths, targets = self.bpe.encode_pieces(pieces, self.dtype)
        return Tokens(ids, lengths, text_bytes, None if targets.all() else targets)


class EncodingProcess:
    """The parent's side. The worker ends with its pipe: when this block does, and when the parent is killed."""

    def __init__(self, encoder: Encoder) -> None:
        self.pipe, theirs = Pipe()
        self.process = start(
            python_module("minimind.data.worker", str(theirs.fileno())),
            pass_fds=[theirs.fileno()], stdin=DEVNULL, env=environment(TOKENIZERS_PARALLELISM="false"),
        )  # fmt: skip
        theirs.close()
        self.pipe.send(encoder)

    def ask(self, blocks: list[RawBlock]) -> tuple[Tokens, Tokens]:
        """Raises:
        UserError: a record is not what it should be.
        RuntimeError: the worker was killed.
        """
        try:
            self.pipe.send(blocks)
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(
                f"A process that prepares the data ended with code {self.process.wait()}; if it was killed for want of "
                "memory, run the same command again with fewer of them by data.prepare_processes=…"
            ) from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def __enter__(self) -> "EncodingProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.wait()


def serve(pipe: Connection) -> None:
    """The worker's side: an encoder, then batch after batch until nobody asks any more."""
    try:
        encoder: Encoder = pipe.recv()
        while True:
            blocks = pipe.recv()
            answer: tuple[Tokens, Tokens] | UserError
            try:
                answer = encoder.encode(blocks)
            except UserError as error:
                answer = error
            pipe.send(answer)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
