"""How the stream of tokens becomes rows: windows of T + 1 tokens, each T after the one before."""

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
    """Window i is the tokens iT … iT+T: every token but the stream's first is a target exactly once."""

    def __init__(self, stream: TokenStream, sequence_length: int) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.num_windows = -(-(len(stream) - 1) // sequence_length)

    def rows(self, windows: np.ndarray) -> Batch:
        """The named windows as a batch; what the last window lacks is padded and masked."""
        tokens = np.zeros((len(windows), self.sequence_length + 1), dtype=np.int64)
        labels = np.full((len(windows), self.sequence_length), IGNORED, dtype=np.int64)
        for row, window in enumerate(windows):
            start = int(window) * self.sequence_length
            read = self.stream.read(start, start + self.sequence_length + 1)
            tokens[row, : len(read)] = read
            labels[row, : len(read) - 1] = read[1:]
        return Batch(torch.from_numpy(tokens[:, :-1]), torch.from_numpy(labels))
