"""Text → tokenizer → token shards, once: kept in a cache folder named by what they are made of."""

import hashlib
import itertools
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minimind.data.cache import filled_folder, folder_of
from minimind.data.config import DataConfig, MixtureConfig, source_settings
from minimind.data.corpora import build_corpus
from minimind.data.corpus import Corpus
from minimind.data.encode import Batch, Encoder, batches, encoded
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
CHUNK_BYTES = 1 << 27  # raw text of one shard, and what an interruption can cost
WORTH_PROCESSES = 1 << 26  # bytes of files: below, the tokenizer's own threads are done before workers have started


@dataclass(frozen=True)
class PreparedSource:
    """Streams of training and held-out tokens of one corpus."""

    name: str
    weight: float  # its share of the training rows, where there are several
    folder: Path

    def stream(self, split: str) -> TokenStream:
        return TokenStream(self.folder / split)


@dataclass(frozen=True)
class PreparedData:
    """One source, or those of a mixture, and the tokenizer that made them all."""

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
    """A corpus that is to be prepared."""

    name: str
    weight: float
    cfg: DataConfig
    corpus: Corpus

    @property
    def options(self) -> dict[str, Any]:
        """The settings that say which text it is; the files it found stand in `made_of`.

        One that was added later is left out with the default of its introduction: what was prepared before stays valid.
        """
        known, introduced = source_settings(type(self.cfg)), added_settings(type(self.cfg))
        return {
            key: value
            for key, value in asdict(self.cfg).items()
            if key in known and not (key in introduced and value == introduced[key])
        }

    @property
    def made_of(self) -> dict[str, Any]:
        options = {key: value for key, value in self.options.items() if key != "files"}
        return {"options": options, "files": self.corpus.made_of()}


def prepare(data: DataConfig, tokenizer: TokenizerConfig, cache: Path) -> PreparedData:
    """Finds what is prepared already, or prepares it; two processes may ask at the same time.

    Raises:
        UserError: the text cannot be read, there is too little of it, or no room for the tokens.
    """
    sources = _sources(data)
    if tokenizer.path is not None:
        tokenizer_path = find_existing(tokenizer.path, "tokenizer.path")
    else:
        tokenizer_path = _trained_tokenizer(sources, tokenizer, cache / "tokenizers")
    return _prepared(sources, tokenizer_path, cache, data.prepare_processes, all_held_out=False)


def prepare_with(data: DataConfig, tokenizer_path: Path, cache: Path, *, all_held_out: bool = False) -> PreparedData:
    """The same with a tokenizer that is there; `all_held_out` for a corpus that is only evaluated on."""
    return _prepared(_sources(data), tokenizer_path, cache, data.prepare_processes, all_held_out)


def _sources(data: DataConfig) -> list[_Source]:
    if not isinstance(data, MixtureConfig):
        return [_Source(data.kind, 1.0, data, build_corpus(data))]
    return [_Source(name, weight, cfg, build_corpus(cfg)) for name, (weight, cfg) in data.weighted_sources().items()]


def _trained_tokenizer(sources: list[_Source], cfg: TokenizerConfig, parent: Path) -> Path:
    """One tokenizer for all sources, of a sample in proportion to their weights."""
    shares = {source.name: source.weight / sum(s.weight for s in sources) for source in sources}
    made_of = {
        "sources": [(shares[source.name], source.made_of) for source in sources],
        "vocab_size": cfg.vocab_size,
        "sample_mb": cfg.sample_mb,
    }
    with filled_folder(parent, made_of) as folder:
        if folder is not None:
            sample = (
                text for source in sources for text in _sample(source, int(cfg.sample_mb * 1e6 * shares[source.name]))
            )
            BPE.train(sample, cfg.vocab_size).save(folder / "tokenizer.json")
    return folder_of(parent, made_of) / "tokenizer.json"


def _sample(source: _Source, wanted_bytes: int) -> Iterator[str]:
    """Training documents from the beginning of the corpus."""
    left = wanted_bytes
    total = wanted_bytes if source.corpus.size is None else min(source.corpus.size, wanted_bytes)
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


def _prepared(
    sources: list[_Source], tokenizer_path: Path, cache: Path, processes: int | None, all_held_out: bool
) -> PreparedData:
    bpe = BPE.load(tokenizer_path)
    done = []
    for source in sources:
        try:
            folder = _prepared_folder(source, bpe, cache / "shards", processes, all_held_out)
        except UserError as error:
            raise error if len(sources) == 1 else UserError(f"Source {source.name}: {error}") from None
        done.append(PreparedSource(source.name, source.weight, folder))
    return PreparedData(done, done[0].folder / "tokenizer.json")


def _prepared_folder(source: _Source, bpe: BPE, parent: Path, processes: int | None, all_held_out: bool) -> Path:
    made_of = {"source": source.made_of, "tokenizer": bpe.hash, "all_held_out": all_held_out,
               "chunk_bytes": CHUNK_BYTES, "version": VERSION}  # fmt: skip
    with filled_folder(parent, made_of) as folder:
        if folder is not None:
            size = source.corpus.size
            if processes is None and (size is None or size >= WORTH_PROCESSES):
                processes = len(os.sched_getaffinity(0))
            encoder = Encoder(source.corpus, bpe, token_dtype(bpe.vocab_size), all_held_out)
            writers = _write_shards(encoder, folder, processes)
            _check_not_empty(writers, all_held_out)
            for split, writer in writers.items():
                writer.close(bpe.hash, split=split, options=source.options, versions=_versions())
            bpe.save(folder / "tokenizer.json")
            for record in folder.glob("chunk_*.json"):
                record.unlink()
    return folder_of(parent, made_of)


def _write_shards(encoder: Encoder, folder: Path, processes: int | None) -> dict[str, ShardWriter]:
    """Fills the folder from where an earlier attempt left off, one chunk after another."""
    writers = {split: ShardWriter(folder / split, encoder.dtype) for split in SPLITS}
    finished = _finished_chunks(folder, writers)
    with progress_bar("Writing token shards", encoder.corpus.size) as advance:

        def unfinished() -> Iterator[Batch]:
            for batch in batches(encoder.corpus, CHUNK_BYTES):
                if batch.chunk >= finished:
                    yield batch
                else:
                    advance(batch.read)

        for batch, tokens in encoded(encoder, unfinished(), processes):
            for writer, of_split in zip(writers.values(), tokens, strict=True):
                if len(of_split.lengths):
                    writer.add(of_split.ids, of_split.text_bytes, of_split.lengths, of_split.targets)
            if batch.ends_chunk:
                _finish_chunk(folder, batch.chunk, writers)
            advance(batch.read)
    for writer in writers.values():
        writer.cut()
    return writers


def _finish_chunk(folder: Path, chunk: int, writers: dict[str, ShardWriter]) -> None:
    """Its shards, and then the record that says so: what has no record is written again."""
    before = {split: len(writer.shards) for split, writer in writers.items()}
    for writer in writers.values():
        writer.cut()
    shards = {split: [shard.as_json() for shard in writer.shards[before[split] :]] for split, writer in writers.items()}
    write_json(folder / f"chunk_{chunk:05d}.json", shards)


def _finished_chunks(folder: Path, writers: dict[str, ShardWriter]) -> int:
    """How many there are before the first that is missing or has a damaged record."""
    for finished in itertools.count():
        try:
            record = read_object(folder / f"chunk_{finished:05d}.json")
            shards = {split: [ShardInfo(**shard) for shard in record[split]] for split in writers}
        except (FileNotFoundError, DamagedFile, KeyError, TypeError):
            break
        for split, of_split in shards.items():
            writers[split].shards += of_split
    return finished


def _check_not_empty(writers: dict[str, ShardWriter], all_held_out: bool) -> None:
    for split, writer in writers.items():
        if not writer.shards and not (all_held_out and split == TRAIN):
            held_out = "held-out " if split == VALIDATION else ""
            raise UserError(
                f"The corpus must hold at least one {held_out}document, but has none; name more text"
                + (", or held-out text with data.validation_files='[…]'." if held_out else ".")
            )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("minimind", "tokenizers")} | {"python": platform.python_version()}
