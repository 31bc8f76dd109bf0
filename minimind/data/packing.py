"""How the stream of tokens becomes rows: windows of T + 1 tokens, each T after the one before."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind.data.shards import TokenStream

IGNORED = -100  # a target that is not one: torch's own default for cross-entropy


class Batch(NamedTuple):
    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, the token that follows each input; IGNORED where there is none


class WindowPacking:
    """Window i is the tokens iS … iS+T, with the stride S = T for training.

    Every token but the stream's first is a target exactly once: of a window that overlaps the one before (S < T),
    the T - S targets that were there already are masked, and are only context.
    """

    def __init__(self, stream: TokenStream, sequence_length: int, stride: int | None = None) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.stride = stride or sequence_length
        beyond_the_first = max(0, len(stream) - 1 - sequence_length)
        self.num_windows = 1 + math.ceil(beyond_the_first / self.stride)

    def rows(self, windows: np.ndarray) -> Batch:
        """The named windows as a batch; what the last window lacks is padded and masked."""
        tokens = np.zeros((len(windows), self.sequence_length + 1), dtype=np.int64)
        labels = np.full((len(windows), self.sequence_length), IGNORED, dtype=np.int64)
        for row, window in enumerate(windows):
            start = int(window) * self.stride
            read = self.stream.read(start, start + self.sequence_length + 1)
            tokens[row, : len(read)] = read
            seen = self.sequence_length - self.stride if window else 0
            labels[row, seen : len(read) - 1] = read[seen + 1 :]
        return Batch(torch.from_numpy(tokens[:, :-1]), torch.from_numpy(labels))


def validation_packing(stream: TokenStream, sequence_length: int) -> WindowPacking:
    """Windows that overlap by half, so that every target has at least half a window of context before it."""
    return WindowPacking(stream, sequence_length, stride=max(1, sequence_length // 2))
