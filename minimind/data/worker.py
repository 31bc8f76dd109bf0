"""Encodes raw records into tokens, in this process or in a worker process.

Workers are started as programs, not with multiprocessing, which would import the caller's main module again and whose
pools hang forever when a worker is killed during the transfer of a large batch (Python 3.11).
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
    """Concatenated documents, each ending with <|endoftext|>."""

    ids: NDArray[np.unsignedinteger]
    lengths: NDArray[np.int64]  # tokens per document
    text_bytes: int  # bytes of target text
    targets: NDArray[np.bool_] | None = None  # whether each token is a target; None: all are


@dataclass(frozen=True)
class Encoder:
    """Encodes raw records into (training tokens, held-out tokens)."""

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
    """Parent's side of a worker, which exits when its pipe closes: at the end of the context, or if the parent dies."""

    def __init__(self, encoder: Encoder) -> None:
        self.pipe, worker_pipe = Pipe()
        self.process = start(
            python_module("minimind.data.worker", str(worker_pipe.fileno())),
            pass_fds=[worker_pipe.fileno()], stdin=DEVNULL, env=environment(TOKENIZERS_PARALLELISM="false"),
        )  # fmt: skip
        worker_pipe.close()
        self.pipe.send(encoder)

    def encode(self, blocks: list[RawBlock]) -> tuple[Tokens, Tokens]:
        """Raises:
        UserError: a record is invalid.
        RuntimeError: the worker was killed.
        """
        try:
            self.pipe.send(blocks)
            reply = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(
                f"A data preparation process exited with code {self.process.wait()}; if it ran out of memory, run the "
                "same command again with fewer processes, by data.prepare_processes=…"
            ) from None
        if isinstance(reply, UserError):
            raise reply
        return reply

    def __enter__(self) -> "EncodingProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.wait()


def serve(pipe: Connection) -> None:
    """Worker's side: receive an encoder, then encode batches until the pipe closes."""
    try:
        encoder: Encoder = pipe.recv()
        while True:
            blocks = pipe.recv()
            reply: tuple[Tokens, Tokens] | UserError
            try:
                reply = encoder.encode(blocks)
            except UserError as error:
                reply = error
            pipe.send(reply)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
