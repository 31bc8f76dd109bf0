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
import struct
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.utils.errors import UserError
from minimind.utils.files import atomic_open, read_json, write_json

MAGIC = b"MINIMIND"
VERSION = 1
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
        write_json(self.folder / MANIFEST, {**manifest, **sums, **about, "fingerprint": _fingerprint(manifest)})

    def _clear(self) -> None:
        self._documents: list[NDArray] = []
        self._offsets: list[NDArray[np.uint64]] = []
        self._size = self._text_bytes = 0


class TokenStream:
    """All shards of a folder as one stream of tokens, memory-mapped.

    Raises:
        UserError: the manifest is missing, or a shard is not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} must hold token shards, but has no {MANIFEST}; prepare the data again.")
        manifest = read_json(path)
        self.folder = folder
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_hash: str = manifest["tokenizer"]
        self.shards = [ShardInfo(**shard) for shard in manifest["shards"]]
        self.text_bytes = sum(shard.text_bytes for shard in self.shards)
        self.num_documents = sum(shard.documents for shard in self.shards)
        self._payloads = [self._map(shard) for shard in self.shards]
        self._starts = np.cumsum([0, *(shard.tokens for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Tokens [start, stop) of the stream, fewer at its end; a view where one shard holds them all."""
        stop = min(stop, len(self))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while start < stop:
            base, end = int(self._starts[first]), min(stop, int(self._starts[first + 1]))
            parts.append(self._payloads[first][start - base : end - base])
            start, first = end, first + 1
        if not parts:
            return np.zeros(0, dtype=token_dtype(0))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def document_starts(self) -> NDArray[np.int64]:
        """Where each document begins in the stream."""
        starts = [np.zeros(0, dtype=np.int64)]
        for shard, payload, base in zip(self.shards, self._payloads, self._starts, strict=False):
            offset = HEADER.size + payload.nbytes
            offsets = np.fromfile(self.folder / shard.name, dtype="<u8", offset=offset, count=shard.documents)
            starts.append(offsets.astype(np.int64) + base)
        return np.concatenate(starts)

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Tokens of one document, without its <|endoftext|>."""
        bounds = [*self.document_starts[index : index + 2].tolist(), len(self)]
        start, stop = next(pairwise(bounds))
        return self.read(start, stop - 1)

    def _map(self, shard: ShardInfo) -> NDArray[np.unsignedinteger]:
        path = self.folder / shard.name
        if not path.is_file():
            raise UserError(f"{path} must exist, as {MANIFEST} names it, but does not; prepare the data again.")
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size or header[:8] != MAGIC:
            raise UserError(f"{path} must begin with {MAGIC.decode()}, but does not; prepare the data again.")
        _, version, itemsize, tokens, documents = HEADER.unpack(header)
        size = HEADER.size + tokens * itemsize + documents * 8
        if (version, tokens, documents) != (VERSION, shard.tokens, shard.documents) or path.stat().st_size != size:
            raise UserError(f"{path} must be as {MANIFEST} says, but its header or size differs; prepare it again.")
        return np.memmap(path, dtype=f"<u{itemsize}", mode="r", offset=HEADER.size, shape=(tokens,))


def _fingerprint(manifest: dict) -> str:
    """Of the tokens in their order, whatever the folder is called."""
    parts = [str(manifest["version"]), manifest["tokenizer"], *(shard["sha256"] for shard in manifest["shards"])]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
