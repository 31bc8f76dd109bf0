"""Token streams in which each token's value is its position, split into documents and shards."""

from pathlib import Path

import torch

from minimind.data.examples import TokenSequences
from minimind.data.prepare import TRAIN, PreparedSource
from minimind.data.shards import ShardWriter, TokenStream, token_dtype
from minimind.model.config import IGNORED


def write_stream(folder: Path, lengths: list[int], *, first: int = 0, shard_tokens: int = 2**20) -> TokenStream:
    """Documents of these lengths; token i of the stream is `first` + i."""
    writer = ShardWriter(folder, token_dtype(70_000 if first + sum(lengths) > 65_536 else 300), shard_tokens)
    for length in lengths:
        writer.add(list(range(first, first + length)), text_bytes=1)
        first += length
    writer.close("hash")
    return TokenStream(folder)


def source(folder: Path, name: str, weight: float, lengths: list[int], first: int) -> PreparedSource:
    write_stream(folder / name / TRAIN, lengths, first=first)
    return PreparedSource(name, weight, folder / name)


def real_targets(sequences: TokenSequences) -> list[int]:
    labels = sequences.widen().labels
    return labels[labels != IGNORED].tolist()


def same(a: TokenSequences, b: TokenSequences) -> bool:
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))
