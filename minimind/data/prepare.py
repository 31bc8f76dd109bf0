"""Prepares data once: text → tokenizer → token shards, in cache folders named by a hash of their inputs."""

import hashlib
import itertools
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minimind.data.cache import build_folder, cached_folder
from minimind.data.config import DataConfig, MixtureConfig, Verify, source_settings
from minimind.data.corpora import build_corpus
from minimind.data.corpus import Corpus
from minimind.data.encode import Batch, Encoder, encode_batches, make_batches
from minimind.data.manifest import VERSION, ShardInfo
from minimind.data.shards import ShardWriter, TokenStream, token_dtype
from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.config import TokenizerConfig
from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.files import read_object, write_json
from minimind.utils.paths import find_existing
from minimind.utils.progress import progress_bar
from minimind.utils.settings import added_settings

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
CHUNK_BYTES = 1 << 27  # raw text per shard, and the most that an interruption can lose
MIN_BYTES_FOR_WORKERS = 1 << 26  # with smaller files, the tokenizer's own threads finish before workers have started


@dataclass(frozen=True)
class PreparedSource:
    """Training and held-out tokens of one corpus."""

    name: str
    weight: float  # relative share of the training examples in a mixture
    folder: Path

    def stream(self, split: str) -> TokenStream:
        return TokenStream(self.folder / split)


@dataclass(frozen=True)
class PreparedData:
    """One source, or all sources of a mixture, and the tokenizer that encoded them."""

    sources: list[PreparedSource]
    tokenizer_path: Path

    @property
    def tokenizer(self) -> BPE:
        return BPE.load(self.tokenizer_path)

    def streams(self, split: str) -> list[TokenStream]:
        return [source.stream(split) for source in self.sources]

    @property
    def fingerprint(self) -> str:
        parts = [stream.fingerprint for split in SPLITS for stream in self.streams(split)]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Source:
    """A corpus to prepare, and its settings."""

    name: str
    weight: float
    cfg: DataConfig
    corpus: Corpus

    @property
    def options(self) -> dict[str, Any]:
        """Settings that select the text.

        A setting that was added later is omitted while it has its original default, so existing caches stay valid.
        """
        known, introduced = source_settings(type(self.cfg)), added_settings(type(self.cfg))
        return {
            key: value
            for key, value in asdict(self.cfg).items()
            if key in known and not (key in introduced and value == introduced[key])
        }

    @property
    def cache_key(self) -> dict[str, Any]:
        options = {key: value for key, value in self.options.items() if key != "files"}
        return {"options": options, "files": self.corpus.cache_key()}


def prepare(data: DataConfig, tokenizer: TokenizerConfig, cache: Path) -> PreparedData:
    """Prepare data, or find it in the cache; safe to call from several processes at once.

    Raises:
        UserError: the text cannot be read, there is too little of it, or the disk is full.
    """
    sources = _sources(data)
    if tokenizer.path is not None:
        tokenizer_path = find_existing(tokenizer.path, "tokenizer.path")
    else:
        tokenizer_path = _train_tokenizer(sources, tokenizer, cache / "tokenizers")
    return _prepare_sources(sources, tokenizer_path, cache, data.prepare_processes, all_held_out=False)


def prepare_with(data: DataConfig, tokenizer_path: Path, cache: Path, *, all_held_out: bool = False) -> PreparedData:
    """Prepare data with an existing tokenizer; `all_held_out` is for a corpus that is used only for evaluation."""
    return _prepare_sources(_sources(data), tokenizer_path, cache, data.prepare_processes, all_held_out)


def _sources(data: DataConfig) -> list[_Source]:
    if not isinstance(data, MixtureConfig):
        return [_Source(data.kind, 1.0, data, build_corpus(data))]
    return [_Source(name, weight, cfg, build_corpus(cfg)) for name, (weight, cfg) in data.weighted_sources().items()]


def _train_tokenizer(sources: list[_Source], cfg: TokenizerConfig, parent: Path) -> Path:
    """Train one tokenizer for all sources, on a sample in proportion to their weights."""
    shares = {source.name: source.weight / sum(s.weight for s in sources) for source in sources}
    cache_key = {
        "sources": [(shares[source.name], source.cache_key) for source in sources],
        "vocab_size": cfg.vocab_size,
        "sample_mb": cfg.sample_mb,
        "reserved": cfg.reserved,
        "split_digits": cfg.split_digits,
    }
    with build_folder(parent, cache_key) as folder:
        if folder is not None:
            sample = (
                text for source in sources for text in _sample(source, int(cfg.sample_mb * 1e6 * shares[source.name]))
            )
            bpe = BPE.train(sample, cfg.vocab_size, reserved=cfg.reserved, split_digits=cfg.split_digits)
            bpe.save(folder / "tokenizer.json")
    return cached_folder(parent, cache_key) / "tokenizer.json"


def _sample(source: _Source, max_bytes: int) -> Iterator[str]:
    """Yield training documents from the beginning of the corpus."""
    left = max_bytes
    total = max_bytes if source.corpus.size is None else min(source.corpus.size, max_bytes)
    with progress_bar(f"Training the tokenizer ({source.name})", total) as advance:
        for block in source.corpus.blocks():
            before = left
            for document in source.corpus.documents(block):
                if left > 0 and not document.held_out:
                    yield document.text
                    left -= len(document.text.encode())
            advance(before - left)
            if left <= 0:
                return


def _prepare_sources(
    sources: list[_Source], tokenizer_path: Path, cache: Path, processes: int | None, all_held_out: bool
) -> PreparedData:
    bpe = BPE.load(tokenizer_path)
    prepared = []
    for source in sources:
        try:
            folder = _prepare_source(source, bpe, cache / "shards", processes, all_held_out)
        except UserError as error:
            raise error if len(sources) == 1 else UserError(f"Source {source.name}: {error}") from None
        prepared.append(PreparedSource(source.name, source.weight, folder))
    return PreparedData(prepared, prepared[0].folder / "tokenizer.json")


def _prepare_source(source: _Source, bpe: BPE, parent: Path, processes: int | None, all_held_out: bool) -> Path:
    cache_key = {"source": source.cache_key, "tokenizer": bpe.hash, "all_held_out": all_held_out,
               "chunk_bytes": CHUNK_BYTES, "version": VERSION}  # fmt: skip
    with build_folder(parent, cache_key) as folder:
        if folder is not None:
            size = source.corpus.size
            if processes is None and (size is None or size >= MIN_BYTES_FOR_WORKERS):
                processes = len(os.sched_getaffinity(0))
            encoder = Encoder(source.corpus, bpe, token_dtype(bpe.vocab_size), all_held_out)
            writers = _write_shards(encoder, folder, processes)
            _check_not_empty(writers, all_held_out)
            for split, writer in writers.items():
                writer.close(bpe.hash, split=split, options=source.options, versions=_versions())
            bpe.save(folder / "tokenizer.json")
            for record in folder.glob("chunk_*.json"):
                record.unlink()
    return cached_folder(parent, cache_key)


def _write_shards(encoder: Encoder, folder: Path, processes: int | None) -> dict[str, ShardWriter]:
    """Write the shards chunk by chunk, resuming where an earlier attempt stopped."""
    writers = {split: ShardWriter(folder / split, encoder.dtype) for split in SPLITS}
    finished = _finished_chunks(folder, writers)
    with progress_bar("Writing token shards", encoder.corpus.size) as advance:

        def unfinished() -> Iterator[Batch]:
            for batch in make_batches(encoder.corpus, CHUNK_BYTES):
                if batch.chunk >= finished:
                    yield batch
                else:
                    advance(batch.bytes_read)

        for batch, tokens in encode_batches(encoder, unfinished(), processes):
            for writer, split_tokens in zip(writers.values(), tokens, strict=True):
                if len(split_tokens.lengths):
                    writer.add(split_tokens.ids, split_tokens.text_bytes, split_tokens.lengths, split_tokens.targets)
            if batch.ends_chunk:
                _finish_chunk(folder, batch.chunk, writers)
            advance(batch.bytes_read)
    for writer in writers.values():
        writer.flush()
    return writers


def _finish_chunk(folder: Path, chunk: int, writers: dict[str, ShardWriter]) -> None:
    """Write the chunk's shards and then its record; after an interruption, a chunk without a record is redone."""
    before = {split: len(writer.shards) for split, writer in writers.items()}
    for writer in writers.values():
        writer.flush()
    shards = {split: [shard.to_json() for shard in writer.shards[before[split] :]] for split, writer in writers.items()}
    write_json(folder / f"chunk_{chunk:05d}.json", shards)


def _finished_chunks(folder: Path, writers: dict[str, ShardWriter]) -> int:
    """Add the shards of finished chunks, those with an intact record, to the writers; return their number."""
    for finished in itertools.count():
        try:
            record = read_object(folder / f"chunk_{finished:05d}.json")
            shards = {split: [ShardInfo(**shard) for shard in record[split]] for split in writers}
        except (FileNotFoundError, DamagedFile, KeyError, TypeError):
            break
        for split, infos in shards.items():
            writers[split].shards += infos
    return finished


def _check_not_empty(writers: dict[str, ShardWriter], all_held_out: bool) -> None:
    for split, writer in writers.items():
        if not writer.shards and not (all_held_out and split == TRAIN):
            held_out = "held-out " if split == VALIDATION else ""
            raise UserError(
                f"The corpus must contain at least one {held_out}document, but has none; add more text"
                + (", or name held-out files with data.validation_files='[…]'." if held_out else ".")
            )


def verify(data: PreparedData, tokenizer: BPE, how: Verify) -> None:
    """Check manifests, sizes, headers and the tokenizer; with `Verify.full`, also the hash of every shard.

    Raises:
        UserError: a file is damaged or was replaced.
    """
    streams = [stream for split in SPLITS for stream in data.streams(split)]
    for stream in streams:
        if stream.tokenizer_hash != tokenizer.hash:
            raise UserError(
                f"{data.tokenizer_path} must be the tokenizer that made the shards in {stream.folder}, but is another; "
                f"delete {stream.folder.parent} and run the same command to prepare the data again."
            )
    if how is not Verify.full:
        return
    shards = [(stream, number) for stream in streams for number in range(len(stream.shards))]
    sizes = [stream.folder.joinpath(stream.shards[number].name).stat().st_size for stream, number in shards]
    with progress_bar("Verifying token shards", sum(sizes)) as advance:
        for (stream, number), size in zip(shards, sizes, strict=True):
            stream.verify_shard(number)
            advance(size)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("minimind", "tokenizers")} | {"python": platform.python_version()}
