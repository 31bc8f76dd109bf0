"""Token shards: a header, the tokens, where documents begin; and a manifest of the shards of a folder.

magic "MINIMIND"  8 bytes
version           uint32
bytes a token     uint32      2 (uint16), or 4 (uint32) above 65,536 symbols
tokens            uint64
documents         uint64
payload           tokens, little-endian; each document ends with <|endoftext|>
document offsets  uint64 each, the place in the payload where a document begins
"""

import hashlib
import json
import struct
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.utils.errors import UserError
from minimind.utils.files import atomic_open, read_json, write_json

MAGIC = b"MINIMIND"
VERSION = 2
HEADER = struct.Struct("<8sIIQQ")
MANIFEST = "manifest.json"


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


@dataclass
class ShardInfo:
    name: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str


class ShardWriter:
    """Collects documents and writes them as shards: at each `cut`, and before one outgrows `shard_tokens`."""

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int = 2**27) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.shards: list[ShardInfo] = []
        self._clear()

    def add(self, tokens: ArrayLike, text_bytes: int, lengths: ArrayLike | None = None) -> None:
        """Adds one document, its <|endoftext|> included; or several in a row, with the `lengths` of each."""
        added = np.asarray(tokens, dtype=self.dtype)
        ends = np.cumsum([len(added)] if lengths is None else lengths, dtype=np.uint64)
        self._offsets.append(self._size + np.concatenate([np.zeros(1, dtype=np.uint64), ends[:-1]]))
        self._documents.append(added)
        self._size += len(added)
        self._text_bytes += text_bytes
        if self._size >= self.shard_tokens:
            self.cut()

    def cut(self) -> None:
        """Ends a shard here, if there is anything to write."""
        if not self._size:
            return
        name = f"shard_{len(self.shards):05d}.bin"
        offsets = np.concatenate(self._offsets).astype("<u8")
        digest = hashlib.sha256()
        with atomic_open(self.folder / name) as file:
            header = HEADER.pack(MAGIC, VERSION, self.dtype.itemsize, self._size, len(offsets))
            # one by one: a second copy of a shard costs memory
            for part in chain([header], (tokens.tobytes() for tokens in self._documents), [offsets.tobytes()]):
                file.write(part)
                digest.update(part)
        self.shards.append(ShardInfo(name, self._size, len(offsets), self._text_bytes, digest.hexdigest()))
        self._clear()

    def close(self, tokenizer_hash: str, **about: Any) -> None:
        """Writes what is left, and the manifest last: a folder without one is not whole."""
        self.cut()
        shards = [asdict(shard) for shard in self.shards]
        manifest = {"version": VERSION, "tokenizer": tokenizer_hash, "shards": shards}
        tokens, text_bytes = (sum(shard[key] for shard in shards) for key in ("tokens", "text_bytes"))
        sums = {
            "documents": sum(shard["documents"] for shard in shards),
            "tokens": tokens,
            "bytes": text_bytes,
            "bytes_per_token": text_bytes / max(1, tokens),
        }
        content = {**manifest, **sums, **about, "fingerprint": _fingerprint(manifest)}
        write_json(self.folder / MANIFEST, {**content, "sha256": _content_hash(content)})

    def _clear(self) -> None:
        self._documents: list[NDArray] = []
        self._offsets: list[NDArray[np.uint64]] = []
        self._size = self._text_bytes = 0


class TokenStream:
    """All shards of a folder as one stream of tokens, memory-mapped; the documents' beginnings too.

    Sizes and headers are compared with the manifest at once, the hash of a shard when it is first read.

    Raises:
        UserError: the manifest is missing or edited, or a shard is not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        self.folder = folder
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_hash: str = manifest["tokenizer"]
        self.shards = [ShardInfo(**shard) for shard in manifest["shards"]]
        self.text_bytes = sum(shard.text_bytes for shard in self.shards)
        self.num_documents = sum(shard.documents for shard in self.shards)
        mapped = [self._map(shard) for shard in self.shards]
        self._payloads = [payload for payload, _ in mapped]
        self._offsets = [offsets for _, offsets in mapped]
        self._starts = np.cumsum([0, *(shard.tokens for shard in self.shards)])
        self._first_tokens: list[int] = self._starts.tolist()
        self._first_documents: list[int] = np.cumsum([0, *(shard.documents for shard in self.shards)]).tolist()
        self._unproved = set(range(len(self.shards)))  # shards not yet read, whose hash is still to be compared

    def __len__(self) -> int:
        return self._first_tokens[-1]

    @property
    def dtype(self) -> np.dtype:
        return self._payloads[0].dtype if self._payloads else token_dtype(0)

    @cached_property
    def end_of_text(self) -> int:
        """<|endoftext|>, with which each document ends."""
        return int(self.read(len(self) - 1, len(self))[0])

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Tokens [start, stop) of the stream, fewer at its end; a view where one shard holds them all."""
        stop = min(stop, len(self))
        shard = bisect_right(self._first_tokens, start) - 1
        parts = []
        while start < stop:
            base, end = self._first_tokens[shard], min(stop, self._first_tokens[shard + 1])
            if shard in self._unproved:
                self.prove(shard)
            parts.append(self._payloads[shard][start - base : end - base])
            start, shard = end, shard + 1
        if not parts:
            return np.zeros(0, dtype=self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.unsignedinteger]:
        """`length` tokens from each start on, (B, length); zeros where the stream has ended."""
        windows = np.empty((len(starts), length), dtype=self.dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        within = starts - self._starts[shards]
        whole = starts + length <= self._starts[shards + 1]
        rows = zip(windows, shards.tolist(), within.tolist(), whole.tolist(), strict=True)
        for row, (window, shard, start, is_whole) in enumerate(rows):
            if is_whole and shard not in self._unproved:
                window[:] = self._payloads[shard][start : start + length]
            else:
                tokens = self.read(int(starts[row]), int(starts[row]) + length)
                window[: len(tokens)], window[len(tokens) :] = tokens, 0
        return windows

    def document_starts(self, start: int, stop: int) -> list[int]:
        """Where documents begin at the places [start, stop) of the stream."""
        found: list[int] = []
        shard = max(0, bisect_right(self._first_tokens, start) - 1)
        while shard < len(self.shards) and self._first_tokens[shard] < stop:
            if shard in self._unproved:
                self.prove(shard)
            base, offsets = self._first_tokens[shard], self._offsets[shard]
            # not np.searchsorted: it would copy all offsets, which need not lie at multiples of eight bytes
            place = bisect_left(offsets, start - base)
            while place < len(offsets) and base + int(offsets[place]) < stop:
                found.append(base + int(offsets[place]))
                place += 1
            shard += 1
        return found

    def bounds(self, index: int) -> tuple[int, int]:
        """Where a document begins in the stream, and where it has ended, its <|endoftext|> included."""
        shard = bisect_right(self._first_documents, index) - 1
        if shard in self._unproved:
            self.prove(shard)
        base, offsets, place = self._first_tokens[shard], self._offsets[shard], index - self._first_documents[shard]
        is_last = place + 1 == len(offsets)
        stop = self._first_tokens[shard + 1] if is_last else base + int(offsets[place + 1])
        return base + int(offsets[place]), stop

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Tokens of one document, without its <|endoftext|>."""
        start, stop = self.bounds(index)
        return self.read(start, stop - 1)

    def prove(self, shard: int) -> None:
        """Compares the hash of a shard with the manifest; a file that has not changed since is not read again.

        Raises:
            UserError: they differ.
        """
        info = self.shards[shard]
        path = self.folder / info.name
        stat = path.stat()
        if _sha256(path, stat.st_size, stat.st_mtime_ns) != info.sha256:
            raise _harmed(path, f"must have the sha256 that {MANIFEST} says, but differs")
        self._unproved.discard(shard)

    def _map(self, shard: ShardInfo) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint64]]:
        path = self.folder / shard.name
        if not path.is_file():
            raise _harmed(path, f"must exist, as {MANIFEST} names it, but does not")
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size or header[:8] != MAGIC:
            raise _harmed(path, f"must begin with {MAGIC.decode()}, but does not")
        _, version, itemsize, tokens, documents = HEADER.unpack(header)
        size = HEADER.size + tokens * itemsize + documents * 8
        if (version, tokens, documents) != (VERSION, shard.tokens, shard.documents) or path.stat().st_size != size:
            raise _harmed(path, f"must be as {MANIFEST} says, but its header or size differs")
        # plain arrays on the map: slicing an np.memmap costs more than copying a row
        whole = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        end = HEADER.size + tokens * itemsize
        return whole[HEADER.size : end].view(f"<u{itemsize}"), whole[end:].view("<u8")


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Of a file that has this size and time of change: once for all streams of a process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict:
    """Raises: UserError, if there is none, or it is not as it was written."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} must hold token shards, but has no {MANIFEST}; prepare the data again.")
    try:
        manifest = read_json(path)
        unchanged = manifest.pop("sha256") == _content_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _harmed(path, "must be a manifest of token shards, but cannot be read as one") from None
    if not unchanged:
        raise _harmed(path, "must be as it was written, but was edited")
    return manifest


def _content_hash(manifest: dict) -> str:
    """Of all that a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _harmed(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; delete {path.parent.parent} and run the same command to prepare the data again.")


def _fingerprint(manifest: dict) -> str:
    """Of the tokens in their order, whatever the folder is called."""
    parts = [str(manifest["version"]), manifest["tokenizer"], *(shard["sha256"] for shard in manifest["shards"])]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
