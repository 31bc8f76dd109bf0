"""Figures added up on the device, so that no step waits for one."""

from torch import Tensor


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
