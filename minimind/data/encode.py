"""Raw records → tokens, on as many processes as there are, in the order of the records."""

import contextlib
import os
import queue
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from minimind.data.corpus import Corpus, RawBlock
from minimind.data.worker import Encoder, EncodingProcess, Tokens

BATCH_BYTES = 1 << 20  # raw text encoded at a time: enough to make the way to a worker and back cheap
AHEAD = 3  # batches on their way, for each worker
PARALLELISM = "TOKENIZERS_PARALLELISM"


class Batch(NamedTuple):
    blocks: list[RawBlock]
    chunk: int  # which chunk of the corpus it belongs to …
    ends_chunk: bool  # … and whether it is the last of it

    @property
    def read(self) -> int:
        return sum(block.read for block in self.blocks)


def batches(corpus: Corpus, chunk_bytes: int) -> Iterator[Batch]:
    """The corpus in batches, and those in chunks; where one ends depends on the raw text alone."""
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


def encoded(
    encoder: Encoder, work: Iterator[Batch], processes: int | None
) -> Iterator[tuple[Batch, tuple[Tokens, Tokens]]]:
    """Each batch with its tokens, in order.

    `processes` None: in this process, with the tokenizer's own threads, for text so short that starting others costs
    more than it saves. 1: in this process, with one thread. Memory is bounded by the batches on their way.

    Raises:
        UserError: a record is not what it should be.
        RuntimeError: a worker was killed.
    """
    if processes is None:
        yield from ((batch, encoder.encode(batch.blocks)) for batch in work)
    elif processes == 1:
        with _one_thread():
            yield from ((batch, encoder.encode(batch.blocks)) for batch in work)
    else:
        yield from _encoded_by_workers(encoder, work, processes)


def _encoded_by_workers(
    encoder: Encoder, work: Iterator[Batch], processes: int
) -> Iterator[tuple[Batch, tuple[Tokens, Tokens]]]:
    """A thread for each worker hands it batches and waits for the tokens; the main one reads and writes meanwhile."""
    workers = queue.SimpleQueue[EncodingProcess]()
    pending: deque[tuple[Batch, Future[tuple[Tokens, Tokens]]]] = deque()
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            workers.put(stack.enter_context(EncodingProcess(encoder)))
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        stack.callback(threads.shutdown, cancel_futures=True)

        def ask(blocks: list[RawBlock]) -> tuple[Tokens, Tokens]:
            worker = workers.get()
            try:
                return worker.ask(blocks)
            finally:
                workers.put(worker)

        for batch in work:
            pending.append((batch, threads.submit(ask, batch.blocks)))
            if len(pending) > AHEAD * processes:
                first, result = pending.popleft()
                yield first, result.result()
        while pending:
            first, result = pending.popleft()
            yield first, result.result()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before
