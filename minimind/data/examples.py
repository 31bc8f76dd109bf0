"""Training examples: the interface of a numbered source, and token sequences as one implementation."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from minimind.model.config import IGNORED


class Examples(Protocol):
    """A batch in compact form (such as uint16 tokens), for the transfer between processes and to the device."""

    def join(self, others: Sequence[Self], order: Tensor) -> Self:
        """Concatenate this batch with the others, then reorder the examples by the indices in `order`."""

    def to(self, device: torch.device) -> Self: ...

    def widen(self) -> Any:
        """Convert to the batch that the objective takes (such as int64 tokens), on the same device."""


class ExampleSource(Protocol):
    """Random access to examples by number; order, mixture, loader and resume use nothing else."""

    num_examples: int

    def read(self, numbers: NDArray[Any]) -> Examples:
        """Read the examples with these numbers, each in 0 … num_examples - 1."""


class TokenBatch(NamedTuple):
    """Input tokens and the labels to predict; `document_ids` and `position_ids` separate packed documents."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, the token after each input; IGNORED if it is not a target
    document_ids: Tensor | None = None  # (B, T) int64, equal within a document; None: one context per sequence
    position_ids: Tensor | None = None  # (B, T) int64, counted from the start of each document; None: 0, 1, 2 …


class TokenSequences(NamedTuple):
    """Sequences of T + 1 tokens in the dtype of the shards: T inputs, and T targets one token later."""

    tokens: Tensor  # (B, T + 1) uint16 or uint32
    is_target: Tensor  # (B, T) bool, for all tokens but the first
    begins: Tensor | None = None  # (B, T) bool, whether an input begins a document; None: one context per sequence

    def join(self, others: Sequence["TokenSequences"], order: Tensor) -> "TokenSequences":
        parts = (self, *others)
        begins = [part.begins for part in parts if part.begins is not None]
        return TokenSequences(
            torch.cat([part.tokens for part in parts])[order],
            torch.cat([part.is_target for part in parts])[order],
            torch.cat(begins)[order] if begins else None,
        )

    def to(self, device: torch.device) -> "TokenSequences":
        begins = None if self.begins is None else self.begins.to(device, non_blocking=True)
        return TokenSequences(
            self.tokens.to(device, non_blocking=True), self.is_target.to(device, non_blocking=True), begins
        )

    def widen(self) -> TokenBatch:
        labels = self.tokens[:, 1:].to(torch.long, copy=True).masked_fill_(~self.is_target, IGNORED)
        input_ids = self.tokens[:, :-1].long()
        if self.begins is None:
            return TokenBatch(input_ids, labels)
        return TokenBatch(input_ids, labels, self.begins.cumsum(dim=1), positions(self.begins))


def positions(begins: Tensor) -> Tensor:
    """Position of each token within its document (or its part in the sequence), (B, T)."""
    indices = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    return indices - indices.where(begins, 0).cummax(dim=1).values
