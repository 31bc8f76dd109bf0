"""How tokens become rows of T + 1: windows of the stream, or one document a row."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimind.data.config import DataConfig
from minimind.data.config import Packing as PackingKind
from minimind.data.shards import TokenStream
from minimind.model.config import IGNORED


class Rows(NamedTuple):
    """What is read, and travels between processes and to the device: no more bytes than the shards have."""

    tokens: Tensor  # (B, T + 1) uint16 or uint32
    targets: Tensor  # (B, 2) int64: of the T targets of a row, those from the first number up to the second are real
    begins: Tensor | None = None  # (B, T) bool, where an input begins a document; None: nobody asked

    def to(self, device: torch.device) -> "Rows":
        begins = None if self.begins is None else self.begins.to(device)
        return Rows(self.tokens.to(device), self.targets.to(device), begins)


class Batch(NamedTuple):
    """What an objective takes."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, the token that follows each input; IGNORED where there is none
    document_ids: Tensor | None = None  # (B, T) int64, equal within a document; None: a row is one context


class Packing(Protocol):
    stream: TokenStream
    num_rows: int

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """The rows of these numbers, 0 … num_rows - 1."""


def widen(rows: Rows) -> Batch:
    """On whatever device the rows are."""
    labels = rows.tokens[:, 1:].long()
    places = torch.arange(labels.shape[1], device=labels.device)
    start, stop = rows.targets[:, :1], rows.targets[:, 1:]
    labels.masked_fill_((places < start) | (places >= stop), IGNORED)
    document_ids = None if rows.begins is None else rows.begins.cumsum(dim=1)
    return Batch(rows.tokens[:, :-1].long(), labels, document_ids)


def positions_within(document_ids: Tensor) -> Tensor:
    """0, 1, 2 … from the beginning of each document of a row, or of what the row has of it: (B, T)."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = document_ids.diff(dim=1, prepend=document_ids[:, :1] - 1) != 0
    return places - places.where(begins, 0).cummax(dim=1).values


def joined(parts: Sequence[Rows], places: NDArray[np.int64]) -> Rows:
    """Parts of a batch one after another, of which row j belongs at `places[j]`."""
    if len(parts) == 1:
        return parts[0]
    order = torch.from_numpy(np.argsort(places))
    begins = [part.begins for part in parts if part.begins is not None]
    return Rows(
        torch.cat([part.tokens for part in parts])[order],
        torch.cat([part.targets for part in parts])[order],
        torch.cat(begins)[order] if begins else None,
    )


class WindowPacking:
    """Window i is the tokens iS … iS+T, with the stride S = T for training.

    Every token but the stream's first is a target exactly once: of a window that overlaps the one before (S < T),
    the T - S targets that were there already are masked, and are only context. What the last window lacks is padded
    and masked.

    With `document_mask` no input sees another document. The border is before the <|endoftext|> that ends a document:
    as a target it ends that document, as an input it begins the next one, whose first token is its target.
    """

    def __init__(
        self, stream: TokenStream, sequence_length: int, stride: int | None = None, *, document_mask: bool = False
    ) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.stride = stride or sequence_length
        self.document_mask = document_mask
        num_targets = max(0, len(stream) - 1)
        beyond_the_first = max(0, num_targets - sequence_length)
        self.num_rows = min(1, num_targets) + math.ceil(beyond_the_first / self.stride)

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        length, starts = self.sequence_length, numbers * self.stride
        targets = np.zeros((len(numbers), 2), dtype=np.int64)
        if self.stride < length:
            targets[:, 0] = np.where(numbers > 0, length - self.stride, 0)
        np.minimum(len(self.stream) - 1 - starts, length, out=targets[:, 1])
        begins = torch.from_numpy(self._begins(starts)) if self.document_mask else None
        tokens = self.stream.windows(starts, length + 1)
        return Rows(torch.from_numpy(tokens), torch.from_numpy(targets), begins)

    def _begins(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        begins = np.zeros((len(starts), self.sequence_length), dtype=bool)
        for row, start in zip(begins, starts.tolist(), strict=True):
            for first in self.stream.document_starts(start + 1, start + 1 + self.sequence_length):
                row[first - 1 - start] = True
        return begins


class DocumentPacking:
    """Row i is document i: <|endoftext|>, its tokens, <|endoftext|>; cut at T + 1, else padded and masked."""

    def __init__(self, stream: TokenStream, sequence_length: int) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.num_rows = stream.num_documents

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        length = self.sequence_length
        tokens = np.full((len(numbers), length + 1), self.stream.end_of_text, dtype=self.stream.dtype)
        targets = np.zeros((len(numbers), 2), dtype=np.int64)
        for row, number in enumerate(numbers.tolist()):
            start, stop = self.stream.bounds(number)
            stop = min(stop, start + length)
            tokens[row, 1 : 1 + stop - start] = self.stream.read(start, stop)
            targets[row, 1] = stop - start
        return Rows(torch.from_numpy(tokens), torch.from_numpy(targets))


def training_packing(stream: TokenStream, cfg: DataConfig) -> Packing:
    if cfg.packing is PackingKind.pad:
        return DocumentPacking(stream, cfg.sequence_length)
    return WindowPacking(stream, cfg.sequence_length, document_mask=cfg.document_mask)


def validation_packing(stream: TokenStream, cfg: DataConfig) -> WindowPacking:
    """Windows that overlap by half, so that every target has up to half a window of its own context before it.

    Where training shows no document beside another, neither do they: each token is counted once, whatever the packing.
    """
    apart = cfg.document_mask or cfg.packing is PackingKind.pad
    return WindowPacking(stream, cfg.sequence_length, max(1, cfg.sequence_length // 2), document_mask=apart)
