"""Means over held-out examples, kept as sums until the last batch of the last rank."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class SumsMetric(Metric):
    """`loss` and the named metrics, each Σ sums ÷ Σ counts; one that nothing was counted for is left out."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = ("loss", *names)
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Takes (sum, count) by name; what is not among the names is not held-out examples' business."""
        for place, name in enumerate(self.names):
            if name in values:
                total, count = values[name]
                self.sums[place] += total.double()
                self.counts[place] += count.double()

    def compute(self) -> dict[str, float]:
        pairs = zip(self.names, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in pairs if count}
