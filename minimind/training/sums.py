"""Figures added up on the device, so that no step waits for one."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy


class Sums:
    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            if name in self.values:
                self.values[name].add_(value.detach())
            else:
                self.values[name] = value.detach().clone()

    def take(self) -> dict[str, Tensor]:
        taken, self.values = self.values, {}
        return taken


def over_ranks(sums: dict[str, Tensor], strategy: "Strategy") -> dict[str, Tensor]:
    """The same of all ranks together, in one collective; float64 keeps counts of tokens exact."""
    flat = torch.cat([value.double().flatten() for value in sums.values()])
    pieces = strategy.reduce(flat, reduce_op="sum").split([value.numel() for value in sums.values()])
    return {
        name: piece.view_as(value).to(value.dtype) for (name, value), piece in zip(sums.items(), pieces, strict=True)
    }
