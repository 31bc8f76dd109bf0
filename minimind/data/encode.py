"""Encodes raw records into tokens with any number of processes, in the order of the records."""

import contextlib
import os
import queue
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from minimind.data.corpus import Corpus, RawBlock
from minimind.data.worker import Encoder, EncodingProcess, Tokens

BATCH_BYTES = 1 << 20  # raw text per batch: enough to amortize the transfer to a worker and back
BATCHES_AHEAD = 3  # in flight per worker
PARALLELISM = "TOKENIZERS_PARALLELISM"


class Batch(NamedTuple):
    blocks: list[RawBlock]
    chunk: int  # index of its chunk, the unit in which an interrupted preparation resumes
    ends_chunk: bool  # whether it is the last batch of its chunk

    @property
    def bytes_read(self) -> int:
        return sum(block.bytes_read for block in self.blocks)


def make_batches(corpus: Corpus, chunk_bytes: int) -> Iterator[Batch]:
    """Group the corpus into batches, and these into chunks; their boundaries depend only on the raw text."""
    blocks: list[RawBlock] = []
    batch_size = chunk_size = chunk = 0
    for block in corpus.blocks():
        size = sum(map(len, block.records))
        blocks.append(block)
        batch_size, chunk_size = batch_size + size, chunk_size + size
        ends_chunk = chunk_size >= chunk_bytes
        if ends_chunk or batch_size >= BATCH_BYTES:
            yield Batch(blocks, chunk, ends_chunk)
            blocks, batch_size = [], 0
        if ends_chunk:
            chunk, chunk_size = chunk + 1, 0
    if blocks:
        yield Batch(blocks, chunk, False)


def encode_batches(
    encoder: Encoder, batches: Iterator[Batch], processes: int | None
) -> Iterator[tuple[Batch, tuple[Tokens, Tokens]]]:
    """Yield each batch with its training and held-out tokens, in order; memory is bounded by the batches in flight.

    Args:
        processes: None: encode in this process with the tokenizer's own threads, for text so short that starting
            workers costs more than it saves. 1: encode in this process with one thread.

    Raises:
        UserError: a record is invalid.
        RuntimeError: a worker was killed.
    """
    if processes is None:
        yield from ((batch, encoder.encode(batch.blocks)) for batch in batches)
    elif processes == 1:
        with _single_threaded():
            yield from ((batch, encoder.encode(batch.blocks)) for batch in batches)
    else:
        yield from _encode_in_workers(encoder, batches, processes)


def _encode_in_workers(
    encoder: Encoder, batches: Iterator[Batch], processes: int
) -> Iterator[tuple[Batch, tuple[Tokens, Tokens]]]:
    """One thread per worker sends it batches and waits for the tokens; meanwhile the main thread reads and writes."""
    workers = queue.SimpleQueue[EncodingProcess]()
    pending: deque[tuple[Batch, Future[tuple[Tokens, Tokens]]]] = deque()
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            workers.put(stack.enter_context(EncodingProcess(encoder)))
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        stack.callback(threads.shutdown, cancel_futures=True)

        def encode(blocks: list[RawBlock]) -> tuple[Tokens, Tokens]:
            worker = workers.get()
            try:
                return worker.encode(blocks)
            finally:
                workers.put(worker)

        for batch in batches:
            pending.append((batch, threads.submit(encode, batch.blocks)))
            if len(pending) > BATCHES_AHEAD * processes:
                first, result = pending.popleft()
                yield first, result.result()
        while pending:
            first, result = pending.popleft()
            yield first, result.result()


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before
