"""Packs a token stream into sequences of T + 1 tokens: windows of the stream, or one document per sequence."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from minimind.data.config import DataConfig, Packing
from minimind.data.examples import ExampleSource, TokenSequences
from minimind.data.shards import TokenStream


class WindowPacking:
    """Example i is the window of tokens iS … iS+T, with the stride S = T for training.

    Every token but the stream's first is a target exactly once: if windows overlap (S < T), the T - S targets that the
    previous window already had are masked and serve as context only. The last window is padded and masked.

    With `document_mask`, inputs attend only within their document. The boundary is before the <|endoftext|> that ends
    a document: as a target it ends that document; as an input it begins the next, whose first token it predicts.
    """

    def __init__(
        self, stream: TokenStream, sequence_length: int, stride: int | None = None, *, document_mask: bool = False
    ) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.stride = stride or sequence_length
        self.document_mask = document_mask
        num_targets = max(0, len(stream) - 1)
        beyond_first_window = max(0, num_targets - sequence_length)
        self.num_examples = min(1, num_targets) + math.ceil(beyond_first_window / self.stride)

    def read(self, numbers: NDArray[np.int64]) -> TokenSequences:
        length, starts = self.sequence_length, numbers * self.stride
        num_repeated = np.where(numbers > 0, length - self.stride, 0)  # targets of the previous window
        is_target = (np.arange(length) >= num_repeated[:, None]) & self.stream.targets(starts + 1, length)
        begins = torch.from_numpy(self._begins(starts)) if self.document_mask else None
        tokens = self.stream.windows(starts, length + 1)
        return TokenSequences(torch.from_numpy(tokens), torch.from_numpy(is_target), begins)

    def _begins(self, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        begins = np.zeros((len(starts), self.sequence_length), dtype=bool)
        for row, start in zip(begins, starts.tolist(), strict=True):
            for first in self.stream.document_starts(start + 1, start + 1 + self.sequence_length):
                row[first - 1 - start] = True
        return begins


class DocumentPacking:
    """Example i is document i between two <|endoftext|>, truncated to T + 1 tokens, or padded and masked."""

    def __init__(self, stream: TokenStream, sequence_length: int) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.num_examples = stream.num_documents

    def read(self, numbers: NDArray[np.int64]) -> TokenSequences:
        length = self.sequence_length
        tokens = np.full((len(numbers), length + 1), self.stream.end_of_text, dtype=self.stream.dtype)
        is_target = np.zeros((len(numbers), length), dtype=bool)
        for row, number in enumerate(numbers.tolist()):
            start, stop = self.stream.bounds(number)
            stop = min(stop, start + length)
            tokens[row, 1 : 1 + stop - start] = self.stream.read(start, stop)
            is_target[row, : stop - start] = self.stream.read_targets(start, stop)
        return TokenSequences(torch.from_numpy(tokens), torch.from_numpy(is_target))


def training_packing(stream: TokenStream, cfg: DataConfig) -> ExampleSource:
    if cfg.packing is Packing.pad:
        return DocumentPacking(stream, cfg.sequence_length)
    return WindowPacking(stream, cfg.sequence_length, document_mask=cfg.document_mask)


def validation_packing(stream: TokenStream, cfg: DataConfig) -> WindowPacking:
    """Windows that overlap by half: each target has at least half a window of context, except at the stream's start.

    Each token is counted once, whatever the training packing. Documents are isolated from each other if training
    isolates them.
    """
    document_mask = cfg.document_mask or cfg.packing is Packing.pad
    return WindowPacking(stream, cfg.sequence_length, max(1, cfg.sequence_length // 2), document_mask=document_mask)
