"""The GPUs, or shares of the CPU's cores, that jobs of a sweep run on."""

import math
import os
from collections import Counter
from dataclasses import dataclass

from minimind.utils.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    name: str
    gpus: tuple[str, ...] = ()  # as in CUDA_VISIBLE_DEVICES; empty: CPU
    cores: frozenset[int] = frozenset()  # CPU cores; empty: all
    index: int = 0  # among the jobs that run at the same time


class Slots:
    """Hands out slots to jobs.

    Args:
        gpus: the GPUs to use; empty: the CPU.
        num_parallel: jobs at a time; None: one per GPU, or one on the CPU.
    """

    def __init__(self, gpus: list[str], num_parallel: int | None) -> None:
        self.limit = num_parallel or len(gpus) or 1
        self.jobs_per_gpu = math.ceil(self.limit / len(gpus)) if gpus else 0
        self.jobs_on: Counter[str] = Counter(dict.fromkeys(gpus, 0))
        self.free = list(range(self.limit))  # indices of slots

    def acquire(self, num_gpus: int) -> Slot | None:
        """A slot for a job, on the least used GPUs, or None while there is none.

        Raises:
            ConfigError: there are fewer GPUs in total.
        """
        if self.jobs_on and num_gpus > len(self.jobs_on):
            raise ConfigError([
                f"`trainer.devices` must be at most the number of GPUs ({len(self.jobs_on)}), but is {num_gpus}."
            ])  # fmt: skip
        if not self.free:
            return None
        if not self.jobs_on:
            index = self.free.pop(0)
            return Slot("CPU") if self.limit == 1 else Slot(f"CPU {index}", cores=self._cores(index), index=index)
        free = sorted((g for g, jobs in self.jobs_on.items() if jobs < self.jobs_per_gpu), key=self.jobs_on.__getitem__)
        if len(free) < num_gpus:
            return None
        gpus = tuple(free[:num_gpus])
        self.jobs_on.update(gpus)
        return Slot(f"GPU {','.join(gpus)}", gpus, index=self.free.pop(0))

    def release(self, slot: Slot) -> None:
        self.free.append(slot.index)
        self.jobs_on.subtract(slot.gpus)

    def fewest_cores(self) -> frozenset[int]:
        """The cores of the slot with the fewest; empty: all."""
        if self.jobs_on or self.limit == 1:
            return frozenset()
        return min(map(self._cores, range(self.limit)), key=len)

    def _cores(self, index: int) -> frozenset[int]:
        """A slot's share of the cores this process may use; slots share cores if there are more slots than cores."""
        if not hasattr(os, "sched_getaffinity"):
            return frozenset()
        cores = sorted(os.sched_getaffinity(0))
        share = cores[len(cores) * index // self.limit : len(cores) * (index + 1) // self.limit]
        return frozenset(share or [cores[index % len(cores)]])


def visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
