"""Batches by number: batch k of the run holds the same windows whatever the processes, workers or restarts."""

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from minimind.data.order import windows_at
from minimind.data.packing import Batch, WindowPacking
from minimind.runs.stop import leave_signals_to_main


class TrainLoader:
    """Micro-batches of this rank, from any position on.

    One optimizer step takes `batch_rows` windows of the global order. Micro-batch j of the step goes, in blocks
    of `micro_batch` rows, to the ranks in turn, so position = step · accumulation + j is all there is to save.
    It has a length (all micro-batches of the run): Lightning would otherwise read one batch ahead of its count.
    """

    def __init__(
        self,
        packing: WindowPacking,
        *,
        seed: int,
        batch_rows: int,
        micro_batch: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.packing = packing
        self.seed = seed
        self.micro_batch = micro_batch
        self.num_batches = num_batches
        self.rank, self.world_size = rank, world_size
        self.accumulation = batch_rows // (micro_batch * world_size)
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.position = 0
        self.waited_s = 0.0  # in which the training loop had to wait for a batch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches())
        while self.position < self.num_batches:
            start = time.perf_counter()
            batch = next(batches)
            self.waited_s += time.perf_counter() - start
            self.position += 1
            yield batch

    def _batches(self) -> Iterable[Batch]:
        positions = range(self.position, self.num_batches)
        if not (self.num_workers or self.pin_memory):
            return map(self.batch, positions)
        return DataLoader(
            _BatchByNumber(self),
            batch_size=None,
            sampler=positions,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=4 if self.num_workers else None,
            worker_init_fn=leave_signals_to_main,
            generator=torch.Generator(),  # else the number of workers would move the global stream, and dropout
        )

    def batch(self, position: int) -> Batch:
        first = (position * self.world_size + self.rank) * self.micro_batch
        indices = np.arange(first, first + self.micro_batch)
        return self.packing.rows(windows_at(indices, self.packing.num_windows, self.seed))

    def state_dict(self) -> dict[str, int]:
        return {"step": self.position // self.accumulation}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["step"] * self.accumulation


class _BatchByNumber(Dataset[Batch]):
    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __getitem__(self, position: int) -> Batch:
        return self.loader.batch(position)


class ValidationLoader:
    """Every window of a stream once, in order, shared out between the ranks row by row.

    Ranks may get one batch more or less than others: the figures are sums, reduced after the last.
    """

    def __init__(self, packing: WindowPacking, *, rows: int, rank: int = 0, world_size: int = 1) -> None:
        self.packing = packing
        self.windows = np.arange(rank, packing.num_windows, world_size)
        self.rows = rows

    def __len__(self) -> int:
        return math.ceil(len(self.windows) / self.rows)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.windows), self.rows):
            yield self.packing.rows(self.windows[start : start + self.rows])
