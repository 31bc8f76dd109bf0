"""What a model is trained on: numbered examples, and those of token sequences."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from minimind.model.config import IGNORED


class Examples(Protocol):
    """Some examples as they are read: small, and of tensors, since they travel between processes and to the device."""

    def join(self, others: Sequence[Self], order: Tensor) -> Self:
        """These and the others one after another, in the given order."""

    def to(self, device: torch.device) -> Self: ...

    def widen(self) -> Any:
        """The batch that an objective takes, made where the examples are."""


class ExampleSource(Protocol):
    """Examples by number. The number says all: order, mixture, loader and resume know nothing else."""

    num_examples: int

    def read(self, numbers: NDArray[Any]) -> Examples:
        """Those of these numbers, 0 … num_examples - 1."""


class TokenBatch(NamedTuple):
    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, the token that follows each input; IGNORED where it is no target
    document_ids: Tensor | None = None  # (B, T) int64, equal within a document; None: a sequence is one context
    position_ids: Tensor | None = None  # (B, T) int64, counted from where a document begins; None: 0, 1, 2 …


class TokenSequences(NamedTuple):
    """Sequences of T + 1 tokens, in no more bytes than they take in the shards."""

    tokens: Tensor  # (B, T + 1) uint16 or uint32
    is_target: Tensor  # (B, T) bool, of the tokens from the second on
    begins: Tensor | None = None  # (B, T) bool, where an input begins a document; None: a sequence is one context

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
    """0, 1, 2 … from where each document of a sequence begins, or from the start of the sequence: (B, T)."""
    places = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    return places - places.where(begins, 0).cummax(dim=1).values
