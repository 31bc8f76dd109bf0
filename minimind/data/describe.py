"""Statistics and excerpts of a folder of token shards, for `minimind inspect`."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minimind.data.manifest import ShardInfo
from minimind.data.shards import TokenStream


class Excerpt(NamedTuple):
    """The part of a document that lies within a window."""

    document: int
    tokens: list[int]
    ends: bool  # whether <|endoftext|> follows within the window


def length_histogram(stream: TokenStream) -> list[tuple[int, int]]:
    """(shortest length, number of documents) per bin: 0, 1, 2–3, 4–7, … tokens, without <|endoftext|>."""
    counts = np.zeros(64, dtype=np.int64)
    for shard in stream.shards:  # one at a time: a corpus may have 10⁸ documents
        lengths = np.diff(_offsets(stream, shard).astype(np.int64), append=shard.tokens) - 1
        bits = np.where(lengths > 0, np.frexp(lengths.astype(np.float64))[1], 0)
        counts += np.bincount(bits, minlength=len(counts))
    used = np.flatnonzero(counts)
    return [(2 ** (int(b) - 1) if b else 0, int(counts[b])) for b in range(used[0], used[-1] + 1)] if len(used) else []


def excerpts(stream: TokenStream, start: int, stop: int, end_of_text: int) -> Iterator[Excerpt]:
    """Split tokens [start, stop) at document boundaries."""
    tokens = stream.read(start, stop)
    document = _document_at(stream, start)
    ends = np.flatnonzero(tokens == end_of_text).tolist()
    begin = 0
    for end in ends:
        yield Excerpt(document, tokens[begin:end].tolist(), True)
        begin, document = end + 1, document + 1
    if begin < len(tokens):
        yield Excerpt(document, tokens[begin:].tolist(), False)


def _document_at(stream: TokenStream, position: int) -> int:
    """Index of the document that contains the token at this position of the stream."""
    before = 0
    for shard in stream.shards:
        if position < shard.tokens:
            return before + int(np.searchsorted(_offsets(stream, shard), position, side="right")) - 1
        position, before = position - shard.tokens, before + shard.documents
    return before


def _offsets(stream: TokenStream, shard: ShardInfo) -> NDArray[np.uint64]:
    """Start of each document of a shard, from the last section of its file."""
    path = stream.folder / shard.name
    return np.fromfile(path, dtype="<u8", offset=path.stat().st_size - 8 * shard.documents)
