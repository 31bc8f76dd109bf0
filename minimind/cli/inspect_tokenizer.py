"""Shows a tokenizer: its tokens as text, its special tokens, and its bytes per token on a corpus."""

from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from minimind.data.config import DataConfig, JsonlConfig, ParquetConfig, TextConfig
from minimind.data.corpora import build_corpus
from minimind.data.encode import encode_batches, make_batches
from minimind.data.shards import token_dtype
from minimind.data.worker import Encoder
from minimind.tokenizer.bpe import BPE
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import UserError
from minimind.utils.progress import progress_bar

NUM_TOKENS = 48  # shown by default


def show(path: Path, *, count: int | None, first: int | None, corpus: str | None) -> None:
    bpe = BPE.load(path)
    console = VisibleConsole()
    console.print(str(path), style="bold")
    special = [index for index in range(bpe.vocab_size) if bpe.is_special(index)]
    added = [index for index in range(bpe.vocab_size) if bpe.is_added(index) and index not in special]
    lengths = bpe.token_bytes
    ordinary = lengths[[index for index in range(bpe.vocab_size) if not bpe.is_added(index)]]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("size", f"{bpe.vocab_size:,} tokens")
    table.add_row("special", _with_ids(bpe, special))
    if added:
        table.add_row("added", _with_ids(bpe, added))
    table.add_row("bytes", f"{ordinary.mean():.2f} per ordinary token on average, at most {ordinary.max()}")
    table.add_row("sha256", bpe.hash[:12])
    console.print(table)
    shown = _tokens_to_show(bpe, NUM_TOKENS if count is None else count, first)
    console.print(
        f"\nTokens {'from the whole vocabulary' if first is None else f'starting at {first:,}'} (␣ is a space):"
    )
    console.print(Columns([Text(f"{index:>6} ", "dim") + Text(readable(bpe.bytes_of(index))) for index in shown],
                          column_first=True, equal=True))  # fmt: skip
    if corpus is not None:
        text_bytes, tokens = count_tokens(bpe, corpus)
        text = f"{text_bytes:,} bytes, {tokens:,} tokens, {text_bytes / tokens:.3f} bytes per token"
        console.print(f"\nOn {corpus}: {text}", soft_wrap=True)


def readable(raw: bytes) -> str:
    """Bytes as one line of text: ␣ for a space, escapes such as \\n, and \\xe4 for part of a character."""
    text = raw.decode("utf-8", errors="backslashreplace")
    return "".join("␣" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_tokens(bpe: BPE, file: str) -> tuple[int, int]:
    """UTF-8 bytes and tokens of the documents in a file, without end-of-text tokens."""
    kinds: dict[str, type[DataConfig]] = {".jsonl": JsonlConfig, ".parquet": ParquetConfig}
    kind = next((kind for suffix, kind in kinds.items() if suffix in Path(file).suffixes), TextConfig)
    corpus = build_corpus(kind(files=[file]))  # type: ignore[call-arg]
    encoder = Encoder(corpus, bpe, token_dtype(bpe.vocab_size), all_held_out=True)
    text_bytes = tokens = 0
    with progress_bar("Encoding", corpus.size) as advance:
        for batch, (_, made) in encode_batches(encoder, make_batches(corpus, 1 << 27), None):
            text_bytes += made.text_bytes
            tokens += int(np.sum(made.lengths - 1))
            advance(batch.bytes_read)
    if not tokens:
        raise UserError(f"--corpus must contain text, but {file} has none.")
    return text_bytes, tokens


def _with_ids(bpe: BPE, indices: list[int]) -> str:
    return ", ".join(f"{bpe.bytes_of(index).decode()} ({index})" for index in indices)


def _tokens_to_show(bpe: BPE, count: int, first: int | None) -> list[int]:
    if count < 1:
        raise UserError(f"--tokens must be at least 1, but is {count}.")
    if first is not None and not 0 <= first < bpe.vocab_size:
        raise UserError(f"--first must be from 0 to {bpe.vocab_size - 1}, but is {first}.")
    if first is not None:
        return list(range(first, min(first + count, bpe.vocab_size)))
    return np.unique(np.linspace(0, bpe.vocab_size - 1, count).astype(int)).tolist()
