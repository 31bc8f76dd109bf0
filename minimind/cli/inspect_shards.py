"""Shows token shards: the manifest as a table, document lengths, steps per epoch, and a window of text."""

import argparse
import math
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from minimind.data.describe import excerpts, length_histogram
from minimind.data.manifest import read_manifest
from minimind.data.shards import TokenStream
from minimind.tokenizer.bpe import BPE
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import UserError
from minimind.utils.terminal import say

WINDOW_TOKENS = 256  # shown by default
BAR_WIDTH = 40  # characters of the longest bar


def show_shards(path: Path, folders: list[Path], arguments: argparse.Namespace) -> None:
    console = VisibleConsole()
    manifests = {folder.name: read_manifest(folder) for folder in folders}
    console.print(str(path), style="bold")
    console.print(manifest_table(manifests))
    for name in ("options", "versions"):
        settings = next(iter(manifests.values()))[name].items()
        text = ", ".join(f"{key} {value}" for key, value in settings if value not in (None, [], ""))
        console.print(f"{name:13} {text}", soft_wrap=True)
    stream = TokenStream(folders[0])
    if len(stream) == 0:
        stream = TokenStream(folders[-1])
    console.print(f"\nDocuments of {stream.folder.name} by length in tokens:")
    console.print(histogram_table(length_histogram(stream)))
    sequence_length = _positive(arguments, "sequence_length", 512)
    batch_tokens, epochs = _positive(arguments, "batch_tokens", None), _positive(arguments, "epochs", 1)
    text = describe_epochs(len(stream), stream.folder.name, sequence_length, batch_tokens, epochs)
    console.print("\n" + text, soft_wrap=True)
    if arguments.window is not None:
        _show_window(console, stream, arguments.window, _positive(arguments, "length", WINDOW_TOKENS))
    elif arguments.length is not None:
        raise UserError("--length must be used with --window N, the number of the window to show.")


def manifest_table(manifests: dict[str, dict[str, Any]]) -> Table:
    """One column per split."""
    table = Table("", *manifests, box=None, header_style="bold", pad_edge=False)
    all_manifests = list(manifests.values())
    for column in table.columns[1:]:
        column.justify = "right"
    masked = any("targets" in manifest for manifest in all_manifests)  # some tokens are not targets
    for key, name in [("documents", "documents"), ("tokens", "tokens")]:
        table.add_row(name, *(f"{manifest[key]:,}" for manifest in all_manifests))
    if masked:
        table.add_row("targets", *(f"{manifest.get('targets', manifest['tokens']):,}" for manifest in all_manifests))
    table.add_row("bytes of target text" if masked else "bytes of text", *(f"{m['bytes']:,}" for m in all_manifests))
    table.add_row(
        "bytes per target" if masked else "bytes per token",
        *(f"{manifest['bytes_per_token']:.3f}" for manifest in all_manifests),
    )
    table.add_row("shards", *(f"{len(manifest['shards']):,}" for manifest in all_manifests))
    table.add_row("fingerprint", *(manifest["fingerprint"][:12] for manifest in all_manifests))
    table.add_row("tokenizer", *(manifest["tokenizer"][:12] for manifest in all_manifests))
    return table


def histogram_table(bins: list[tuple[int, int]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    largest, total = max(count for _, count in bins), sum(count for _, count in bins)
    for shortest, count in bins:
        longest = max(shortest, 2 * shortest - 1)
        name = f"{shortest:,}" if longest == shortest else f"{shortest:,} – {longest:,}"
        table.add_row(name, f"{count:,}", f"{_bar(count / largest)} {count / total:.1%}")
    return table


def describe_epochs(tokens: int, name: str, sequence_length: int, batch_tokens: int | None, epochs: float) -> str:
    """The number of windows and steps in an epoch, counted as in training (windows of T tokens at a stride of T)."""
    windows = -(-(tokens - 1) // sequence_length)
    text = f"An epoch of {name} is {windows:,} windows of {sequence_length:,} tokens"
    if batch_tokens is None:
        return text + "; use --batch-tokens B to count steps."
    examples = max(1, batch_tokens // sequence_length)
    text += f", {windows / examples:,.1f} steps of {examples * sequence_length:,} tokens"
    return text + (f"; {epochs:g} epochs are {windows * epochs / examples:,.0f} steps." if epochs != 1 else ".")


def _show_window(console: VisibleConsole, stream: TokenStream, window: int, length: int) -> None:
    windows = -(-len(stream) // length)
    if not 0 <= window < windows:
        raise UserError(f"--window must be from 0 to {windows - 1} at length {length}, but is {window}.")
    path = next((f for f in (stream.folder / "tokenizer.json", stream.folder.parent / "tokenizer.json") if f.is_file()),
                None)  # fmt: skip
    if path is None:
        raise UserError(f"{stream.folder.parent} must have the tokenizer.json of its shards, but has none.")
    bpe = BPE.load(path)
    start = window * length
    stop = min(start + length, len(stream))
    console.print(f"\nWindow {window:,} of {windows:,}, tokens {start:,} to {stop - 1:,} of {stream.folder.name}:")
    for excerpt in excerpts(stream, start, stop, bpe.end_of_text):
        console.rule(f"document {excerpt.document:,}", style="dim", align="left")
        say(bpe.decode(excerpt.tokens), end="")
        console.print(Text("<|endoftext|>", "reverse") if excerpt.ends else Text("… continues", "dim"))


def _bar(fraction: float) -> str:
    eighths = round(fraction * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + (chr(0x2590 - eighths % 8) if eighths % 8 else "") or "▏"


def _positive(arguments: argparse.Namespace, name: str, default: Any) -> Any:
    value = getattr(arguments, name)
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"--{name.replace('_', '-')} must be positive, but is {value}.")
    return default if value is None else value
