"""Figures added up on the device, so that no step waits for one."""

import torch
from torch import Tensor


class Sums:
    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        known = [name for name in values if name in self.values]
        if known:
            torch._foreach_add_([self.values[name] for name in known], [values[name].detach() for name in known])
        self.values |= {name: value.detach().clone() for name, value in values.items() if name not in known}

    def take(self) -> dict[str, Tensor]:
        taken, self.values = self.values, {}
        return taken
