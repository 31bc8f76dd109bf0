"""What is in a folder of token shards: how long its documents are, and what a window of them holds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minimind.data.manifest import ShardInfo
from minimind.data.shards import TokenStream


class Excerpt(NamedTuple):
    """Part of a document, as much of it as a window holds."""

    document: int
    tokens: list[int]
    ends: bool  # whether <|endoftext|> follows within the window


def length_histogram(stream: TokenStream) -> list[tuple[int, int]]:
    """(shortest, documents) of each bin of document lengths: 0, 1, 2–3, 4–7, … tokens, <|endoftext|> not counted."""
    counts = np.zeros(64, dtype=np.int64)
    for shard in stream.shards:  # one at a time: a corpus may have 10⁸ documents
        lengths = np.diff(_offsets(stream, shard).astype(np.int64), append=shard.tokens) - 1
        bits = np.where(lengths > 0, np.frexp(lengths.astype(np.float64))[1], 0)
        counts += np.bincount(bits, minlength=len(counts))
    used = np.flatnonzero(counts)
    return [(2 ** (int(b) - 1) if b else 0, int(counts[b])) for b in range(used[0], used[-1] + 1)] if len(used) else []


def excerpts(stream: TokenStream, start: int, stop: int, end_of_text: int) -> Iterator[Excerpt]:
    """Tokens [start, stop) cut at the borders of documents."""
    tokens = stream.read(start, stop)
    document = _document_at(stream, start)
    ends = np.flatnonzero(tokens == end_of_text).tolist()
    begin = 0
    for end in ends:
        yield Excerpt(document, tokens[begin:end].tolist(), True)
        begin, document = end + 1, document + 1
    if begin < len(tokens):
        yield Excerpt(document, tokens[begin:].tolist(), False)


def _document_at(stream: TokenStream, place: int) -> int:
    """Which document the token at this place of the stream belongs to."""
    before = 0
    for shard in stream.shards:
        if place < shard.tokens:
            return before + int(np.searchsorted(_offsets(stream, shard), place, side="right")) - 1
        place, before = place - shard.tokens, before + shard.documents
    return before


def _offsets(stream: TokenStream, shard: ShardInfo) -> NDArray[np.uint64]:
    """Where the documents of a shard begin: the last part of its file."""
    path = stream.folder / shard.name
    return np.fromfile(path, dtype="<u8", offset=path.stat().st_size - 8 * shard.documents)
