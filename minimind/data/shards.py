"""Token shards: files of tokens with optional target bits and document offsets, written and read as one stream.

magic "MINIMIND"  8 bytes
version           uint32      2, or 3 with target bits
bytes per token   uint32      2 (uint16), or 4 (uint32) for vocabularies above 65,536
tokens            uint64
documents         uint64
payload           tokens, little-endian; each document ends with <|endoftext|>
target bits       version 3 only: one bit per token, 1 for a target; the first token is the lowest bit of the first byte
document offsets  uint64 each, the position in the payload where a document begins

A shard in which every token is a target stores no target bits; a folder may contain shards of both versions.
"""

import hashlib
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.data.manifest import MANIFEST, ShardInfo, damaged_error, read_manifest, write_manifest
from minimind.utils.files import atomic_open

MAGIC = b"MINIMIND"
HEADER = struct.Struct("<8sIIQQ")


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


class ShardWriter:
    """Collects documents and writes them as a shard at each `flush`, or once there are `shard_tokens` tokens."""

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int = 2**27) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.shards: list[ShardInfo] = []
        self._clear()

    def add(
        self,
        tokens: ArrayLike,
        text_bytes: int,
        lengths: ArrayLike | None = None,
        targets: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one document with its <|endoftext|>, or several concatenated documents with the `lengths` of each.

        Args:
            text_bytes: bytes of target text.
            targets: whether each token is a target; None: all are.
        """
        added = np.asarray(tokens, dtype=self.dtype)
        if targets is not None and len(targets) != len(added):
            raise ValueError(f"There must be {len(added)} targets, one per token, but there are {len(targets)}.")
        ends = np.cumsum([len(added)] if lengths is None else lengths, dtype=np.uint64)
        self._offsets.append(self._size + np.concatenate([np.zeros(1, dtype=np.uint64), ends[:-1]]))
        self._documents.append(added)
        self._targets.append(targets)
        self._size += len(added)
        self._text_bytes += text_bytes
        if self._size >= self.shard_tokens:
            self.flush()

    def flush(self) -> None:
        """Write the documents collected since the last shard, if any, as a new one."""
        if not self._size:
            return
        name = f"shard_{len(self.shards):05d}.bin"
        offsets = np.concatenate(self._offsets).astype("<u8")
        targets = self._all_targets()
        info = ShardInfo(name, self._size, len(offsets), self._text_bytes, "",
                         None if targets is None else int(targets.sum()))  # fmt: skip
        digest = hashlib.sha256()
        with atomic_open(self.folder / name) as file:
            for section in self._sections(info.version, targets, offsets):
                file.write(section)
                digest.update(section)
        info.sha256 = digest.hexdigest()
        self.shards.append(info)
        self._clear()

    def close(self, tokenizer_hash: str, **metadata: Any) -> None:
        """Write the last shard and then the manifest: a folder without a manifest is incomplete."""
        self.flush()
        write_manifest(self.folder, tokenizer_hash, self.shards, metadata)

    def _sections(
        self, version: int, targets: NDArray[np.bool_] | None, offsets: NDArray[np.uint64]
    ) -> Iterator[bytes]:
        """Yield a shard piece by piece, to avoid a second copy in memory."""
        yield HEADER.pack(MAGIC, version, self.dtype.itemsize, self._size, len(offsets))
        for tokens in self._documents:
            yield tokens.tobytes()
        if targets is not None:
            yield np.packbits(targets, bitorder="little").tobytes()
        yield offsets.tobytes()

    def _all_targets(self) -> NDArray[np.bool_] | None:
        """Target mask of the collected tokens; None: all are targets."""
        if all(targets is None or targets.all() for targets in self._targets):
            return None
        pairs = zip(self._documents, self._targets, strict=True)
        return np.concatenate([np.ones(len(t), dtype=bool) if targets is None else targets for t, targets in pairs])

    def _clear(self) -> None:
        self._documents: list[NDArray] = []
        self._targets: list[NDArray[np.bool_] | None] = []
        self._offsets: list[NDArray[np.uint64]] = []
        self._size = self._text_bytes = 0


class _MappedShard(NamedTuple):
    """Memory-mapped sections of a shard."""

    payload: NDArray[np.unsignedinteger]
    target_bits: NDArray[np.uint8] | None  # None: every token is a target
    offsets: NDArray[np.uint64]


class TokenStream:
    """All shards of a folder as one memory-mapped stream of tokens.

    Sizes and headers are checked against the manifest at once, the hash of each shard when it is first read.

    Raises:
        UserError: the manifest is missing or was edited, or a shard does not match it.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        self.folder = folder
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_hash: str = manifest["tokenizer"]
        self.shards = [ShardInfo(**shard) for shard in manifest["shards"]]
        self.text_bytes = sum(shard.text_bytes for shard in self.shards)
        self.num_documents = sum(shard.documents for shard in self.shards)
        self.num_targets = sum(shard.num_targets for shard in self.shards)
        self.has_targets = any(shard.targets is not None for shard in self.shards)  # some tokens are not targets
        mapped = [self._map(shard) for shard in self.shards]
        self._payloads = [shard.payload for shard in mapped]
        self._target_bits = [shard.target_bits for shard in mapped]
        self._offsets = [shard.offsets for shard in mapped]
        self._starts = np.cumsum([0, *(shard.tokens for shard in self.shards)])  # for vectorized lookups
        self._first_tokens: list[int] = self._starts.tolist()  # the same, faster for single lookups
        self._first_documents: list[int] = np.cumsum([0, *(shard.documents for shard in self.shards)]).tolist()
        self._unverified = set(range(len(self.shards)))  # shards that have not been read yet

    def __len__(self) -> int:
        return self._first_tokens[-1]

    @property
    def dtype(self) -> np.dtype:
        return self._payloads[0].dtype if self._payloads else token_dtype(0)

    @cached_property
    def end_of_text(self) -> int:
        """Id of <|endoftext|>, which ends each document."""
        return int(self.read(len(self) - 1, len(self))[0])

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Tokens [start, stop) of the stream, fewer at its end; a view if one shard contains them all."""
        parts = [self._payloads[shard][first:last] for shard, first, last in self._ranges(start, stop)]
        if not parts:
            return np.zeros(0, dtype=self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_targets(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each of the tokens that `read` returns is a target."""
        parts = [self._shard_targets(shard, first, last) for shard, first, last in self._ranges(start, stop)]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.unsignedinteger]:
        """`length` tokens from each start, (B, length); zeros past the end of the stream."""
        windows = np.empty((len(starts), length), dtype=self.dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        within = starts - self._starts[shards]
        in_one_shard = starts + length <= self._starts[shards + 1]
        rows = zip(windows, shards.tolist(), within.tolist(), in_one_shard.tolist(), strict=True)
        for row, (window, shard, start, is_contiguous) in enumerate(rows):
            if is_contiguous and shard not in self._unverified:
                window[:] = self._payloads[shard][start : start + length]
            else:
                tokens = self.read(int(starts[row]), int(starts[row]) + length)
                window[: len(tokens)], window[len(tokens) :] = tokens, 0
        return windows

    def targets(self, starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Whether each token of `windows(starts, length)` is a target, (B, length); False past the end."""
        if not self.has_targets:
            return starts[:, None] + np.arange(length) < len(self)
        targets = np.zeros((len(starts), length), dtype=bool)
        for row, start in zip(targets, starts.tolist(), strict=True):
            in_stream = self.read_targets(start, start + length)
            row[: len(in_stream)] = in_stream
        return targets

    def document_starts(self, start: int, stop: int) -> list[int]:
        """Positions in [start, stop) of the stream where a document begins."""
        found: list[int] = []
        shard = max(0, bisect_right(self._first_tokens, start) - 1)
        while shard < len(self.shards) and self._first_tokens[shard] < stop:
            if shard in self._unverified:
                self.verify_shard(shard)
            base, offsets = self._first_tokens[shard], self._offsets[shard]
            # Not np.searchsorted, which copies unaligned arrays: the offsets need not be aligned to eight bytes.
            index = bisect_left(offsets, start - base)
            while index < len(offsets) and base + int(offsets[index]) < stop:
                found.append(base + int(offsets[index]))
                index += 1
            shard += 1
        return found

    def bounds(self, index: int) -> tuple[int, int]:
        """Range [start, stop) of a document in the stream, including its <|endoftext|>."""
        shard = bisect_right(self._first_documents, index) - 1
        if shard in self._unverified:
            self.verify_shard(shard)
        base, offsets, local = self._first_tokens[shard], self._offsets[shard], index - self._first_documents[shard]
        is_last = local + 1 == len(offsets)
        stop = self._first_tokens[shard + 1] if is_last else base + int(offsets[local + 1])
        return base + int(offsets[local]), stop

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Tokens of a document without its <|endoftext|>."""
        start, stop = self.bounds(index)
        return self.read(start, stop - 1)

    def verify_shard(self, shard: int) -> None:
        """Compare the hash of a shard with the manifest; an unchanged file is hashed only once per process.

        Raises:
            UserError: the hashes differ.
        """
        info = self.shards[shard]
        path = self.folder / info.name
        stat = path.stat()
        if _sha256(path, stat.st_size, stat.st_mtime_ns) != info.sha256:
            raise damaged_error(path, f"must have the sha256 in {MANIFEST}, but does not")
        self._unverified.discard(shard)

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first, last) for each shard with tokens in [start, stop), verifying it before its first use."""
        stop = min(stop, len(self))
        shard = bisect_right(self._first_tokens, start) - 1
        while start < stop:
            base, end = self._first_tokens[shard], min(stop, self._first_tokens[shard + 1])
            if shard in self._unverified:
                self.verify_shard(shard)
            yield shard, start - base, end - base
            start, shard = end, shard + 1

    def _shard_targets(self, shard: int, first: int, last: int) -> NDArray[np.bool_]:
        bits = self._target_bits[shard]
        if bits is None:
            return np.ones(last - first, dtype=bool)
        unpacked = np.unpackbits(bits[first // 8 : (last + 7) // 8], bitorder="little")
        return unpacked[first % 8 :][: last - first].view(bool)

    def _map(self, shard: ShardInfo) -> _MappedShard:
        path = self.folder / shard.name
        if not path.is_file():
            raise damaged_error(path, f"must exist, as {MANIFEST} lists it, but does not")
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size or header[:8] != MAGIC:
            raise damaged_error(path, f"must begin with {MAGIC.decode()}, but does not")
        _, version, itemsize, tokens, documents = HEADER.unpack(header)
        end_of_payload = HEADER.size + tokens * itemsize
        end_of_bits = end_of_payload + (0 if shard.targets is None else (tokens + 7) // 8)
        matches = (version, tokens, documents) == (shard.version, shard.tokens, shard.documents)
        if not matches or path.stat().st_size != end_of_bits + documents * 8:
            raise damaged_error(path, f"must match {MANIFEST}, but its header or size differs")
        # A view as a plain array: slicing an np.memmap costs more than copying a window.
        content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        payload = content[HEADER.size : end_of_payload].view(f"<u{itemsize}")
        bits = None if shard.targets is None else content[end_of_payload:end_of_bits]
        return _MappedShard(payload, bits, content[end_of_bits:].view("<u8"))


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file; cached per process for as long as its size and modification time stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
