"""Metrics added up on the device, so that no step waits for one."""

import torch
from torch import Tensor

COUNT = "/count"  # of the metric whose name stands before it


class Sums:
    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        known = [name for name in values if name in self.values]
        alike = [name for name in known if self.values[name].dtype == values[name].dtype]
        if alike:
            torch._foreach_add_([self.values[name] for name in alike], [values[name].detach() for name in alike])
        for name in values:
            if name not in known:
                self.values[name] = values[name].detach().clone()
            elif name not in alike:  # as where a rank had nothing to count before
                self.values[name] = self.values[name] + values[name].detach()

    def take(self) -> dict[str, Tensor]:
        taken, self.values = self.values, {}
        return taken
