"""Text → tokenizer → token shards, once: kept in a cache folder named by what they are made of."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from minimind.data.config import DataConfig
from minimind.data.corpora import Corpus, Document, build_corpus
from minimind.data.shards import VERSION, ShardWriter, TokenStream, token_dtype
from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.config import TokenizerConfig
from minimind.utils.errors import UserError
from minimind.utils.files import write_json
from minimind.utils.paths import find_existing
from minimind.utils.progress import progress_bar

TRAIN, VALIDATION = "train", "validation"
BATCH_BYTES = 1 << 22  # text handed to the tokenizer at a time


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
        parts = [stream.fingerprint for split in (TRAIN, VALIDATION) for stream in self.streams(split)]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


def prepare(data: DataConfig, tokenizer: TokenizerConfig, cache: Path) -> PreparedData:
    """Finds what is prepared already, or prepares it; two processes may ask at the same time.

    Raises:
        UserError: the text cannot be read, or there is too little of it.
    """
    corpus = build_corpus(data)
    source = _source(data, corpus)
    if tokenizer.path is not None:
        tokenizer_path = find_existing(tokenizer.path, "tokenizer.path")
    else:
        wanted = {"source": source, "vocab_size": tokenizer.vocab_size, "sample_mb": tokenizer.sample_mb}
        with _cached(cache / "tokenizers", wanted) as (folder, is_new):
            if is_new:
                _train_tokenizer(corpus, tokenizer, folder / "tokenizer.json")
        tokenizer_path = _folder_of(cache / "tokenizers", wanted) / "tokenizer.json"
    return prepare_with(data, tokenizer_path, cache)


def prepare_with(data: DataConfig, tokenizer_path: Path, cache: Path, *, all_held_out: bool = False) -> PreparedData:
    """The same with a tokenizer that is there; `all_held_out` for a corpus that is only evaluated on."""
    corpus = build_corpus(data)
    bpe = BPE.load(tokenizer_path)
    wanted = {"source": _source(data, corpus), "tokenizer": bpe.hash, "all_held_out": all_held_out, "version": VERSION}
    with _cached(cache / "shards", wanted) as (folder, is_new):
        if is_new:
            _write_shards(corpus, bpe, folder, all_held_out)
            bpe.save(folder / "tokenizer.json")
    final = _folder_of(cache / "shards", wanted)
    return PreparedData([PreparedSource(data.kind, 1.0, final)], final / "tokenizer.json")


def _source(data: DataConfig, corpus: Corpus) -> dict:
    """What the text is made of: options, and the files with size and time of change."""
    not_of_the_text = ("sequence_length", "packing", "document_mask", "verify", "num_workers", "files")
    options = {k: v for k, v in asdict(data).items() if k not in not_of_the_text}
    files = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in corpus.files]
    return {"options": options, "files": files}


def _folder_of(parent: Path, wanted: dict) -> Path:
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    return parent / key


@contextmanager
def _cached(parent: Path, wanted: dict) -> Iterator[tuple[Path, bool]]:
    """Yields (folder, whether it must be filled); a new folder appears under its name when the block ends well."""
    final = _folder_of(parent, wanted)
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if final.is_dir():
            yield final, False
            return
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=parent))
        try:
            yield temporary, True
            write_json(temporary / "made_of.json", wanted)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _documents(corpus: Corpus, advance: Callable[[int], None]) -> Iterator[Document]:
    for file in corpus.files:
        yield from corpus.documents(file)
        advance(file.stat().st_size)


def _train_tokenizer(corpus: Corpus, cfg: TokenizerConfig, path: Path) -> None:
    def sample() -> Iterator[str]:
        left = cfg.sample_mb * 1_000_000
        for document in _documents(corpus, advance):
            if not document.held_out:
                yield document.text
                left -= len(document.text)
                if left <= 0:
                    return

    with progress_bar("Training the tokenizer", sum(file.stat().st_size for file in corpus.files)) as advance:
        bpe = BPE.train(sample(), cfg.vocab_size)
    bpe.save(path)


def _write_shards(corpus: Corpus, bpe: BPE, folder: Path, all_held_out: bool) -> None:
    dtype = token_dtype(bpe.vocab_size)
    writers = {split: ShardWriter(folder / split, dtype) for split in (TRAIN, VALIDATION)}
    with progress_bar("Writing token shards", sum(file.stat().st_size for file in corpus.files)) as advance:
        for batch in _batches(_documents(corpus, advance)):
            for document, tokens in zip(batch, bpe.encode_batch([d.text for d in batch]), strict=True):
                split = VALIDATION if all_held_out or document.held_out else TRAIN
                writers[split].add([*tokens, bpe.end_of_text], len(document.text.encode()))
    for split, writer in writers.items():
        writer.close(bpe.hash)
        if not writer.shards and not (all_held_out and split == TRAIN):
            held_out = "held-out " if split == VALIDATION else ""
            raise UserError(
                f"The corpus must hold at least one {held_out}document, but has none; name more text"
                + (", or held-out text with data.validation_files='[…]'." if held_out else ".")
            )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        if not document.text:
            continue
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
