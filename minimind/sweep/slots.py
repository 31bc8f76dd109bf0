"""Where jobs run: on a GPU each, or as many as they ask for, or on the CPU as a whole, unless more jobs are wanted."""

import math
import os
from collections import Counter
from dataclasses import dataclass

from minimind.utils.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    name: str
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; none: a CPU
    cores: frozenset[int] = frozenset()  # of the CPU; none: all
    seat: int = 0  # which of the jobs that may run at a time


class Slots:
    """What there is, and what of it is taken.

    Args:
        gpus: those that may be used; none: the CPU.
        num_parallel: jobs at a time; None: one a GPU, or one on a CPU.
    """

    def __init__(self, gpus: list[str], num_parallel: int | None) -> None:
        self.limit = num_parallel or len(gpus) or 1
        self.share = math.ceil(self.limit / len(gpus)) if gpus else 0  # jobs on one GPU
        self.use: Counter[str] = Counter(dict.fromkeys(gpus, 0))
        self.seats = list(range(self.limit))

    def take(self, num_gpus: int) -> Slot | None:
        """A place for a job, or None until another is given back.

        Raises:
            ConfigError: there are not so many GPUs.
        """
        if self.use and num_gpus > len(self.use):
            raise ConfigError([
                f"`trainer.devices` must be at most the GPUs there are ({len(self.use)}), but is {num_gpus}."
            ])  # fmt: skip
        if not self.seats:
            return None
        if not self.use:
            seat = self.seats.pop(0)
            return Slot("CPU") if self.limit == 1 else Slot(f"CPU {seat}", cores=self._cores(seat), seat=seat)
        free = sorted((gpu for gpu, jobs in self.use.items() if jobs < self.share), key=self.use.__getitem__)
        if len(free) < num_gpus:
            return None
        taken = tuple(free[:num_gpus])
        self.use.update(taken)
        return Slot(f"GPU {','.join(taken)}", taken, seat=self.seats.pop(0))

    def give_back(self, place: Slot) -> None:
        self.seats.append(place.seat)
        self.use.subtract(place.gpus)

    def fewest_cores(self) -> frozenset[int]:
        """Those of the seat that has the fewest; none: all."""
        if self.use or self.limit == 1:
            return frozenset()
        return min(map(self._cores, range(self.limit)), key=len)

    def _cores(self, seat: int) -> frozenset[int]:
        """Its share of the cores this process may use; of one core if there are more jobs than cores."""
        if not hasattr(os, "sched_getaffinity"):
            return frozenset()
        cores = sorted(os.sched_getaffinity(0))
        share = cores[len(cores) * seat // self.limit : len(cores) * (seat + 1) // self.limit]
        return frozenset(share or [cores[seat % len(cores)]])


def visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
