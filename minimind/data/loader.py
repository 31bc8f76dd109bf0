"""Batches by number: batch k of the run holds the same rows whatever the processes, workers or restarts."""

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from minimind.data.mixture import Mixture
from minimind.data.packing import Packing, Rows
from minimind.utils.child import leave_signals_to_parent

ROWS_AHEAD = 1024  # places in the order found at a time: one by one they would cost as much as a small batch itself


class TrainLoader:
    """Micro-batches of this rank, from any position on.

    One optimizer step takes `batch_rows` rows of the global order. Micro-batch j of the step goes, in blocks
    of `micro_batch` rows, to the ranks in turn, so position = step · accumulation + j is all there is to save.
    It has a length (all micro-batches of the run): Lightning would otherwise read one batch ahead of its count.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_rows: int,
        micro_batch: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.mixture = mixture
        self.micro_batch = micro_batch
        self.num_batches = num_batches
        self.rank, self.world_size = rank, world_size
        self.accumulation = batch_rows // (micro_batch * world_size)
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.position = 0
        self.waited_s = 0.0  # in which the training loop had to wait for a batch
        self._planned = range(0)  # positions whose rows are known
        self._sources = self._rows = np.zeros((0, micro_batch), dtype=np.int64)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Rows]:
        batches = iter(self._batches())
        while self.position < self.num_batches:
            start = time.perf_counter()
            batch = next(batches)
            self.waited_s += time.perf_counter() - start
            self.position += 1
            yield batch

    def _batches(self) -> Iterable[Rows]:
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
            worker_init_fn=leave_signals_to_parent,  # a signal to all must not take the last step's data
            generator=torch.Generator(),  # else the number of workers would move the global stream, and dropout
        )

    def batch(self, position: int) -> Rows:
        if position not in self._planned:
            self._plan(position)
        place = position - self._planned.start
        return self.mixture.rows(self._sources[place], self._rows[place])

    def _plan(self, position: int) -> None:
        """Finds the rows of this position, and of many after it unless it is the first: a seek waits for one batch."""
        ahead = max(1, ROWS_AHEAD // self.micro_batch) if self._planned else 1
        self._planned = range(position, position + ahead)
        first = (np.arange(position, position + ahead) * self.world_size + self.rank) * self.micro_batch
        self._sources, self._rows = self.mixture.at(first[:, None] + np.arange(self.micro_batch))

    def figures(self) -> dict[str, float]:
        """What has been taken from each source of a mixture, over all ranks."""
        taken = self.position * self.world_size * self.micro_batch
        return self.mixture.figures(taken) if len(self.mixture.sources) > 1 else {}

    def state_dict(self) -> dict[str, int]:
        return {"step": self.position // self.accumulation}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["step"] * self.accumulation


class _BatchByNumber(Dataset[Rows]):
    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __getitem__(self, position: int) -> Rows:
        return self.loader.batch(position)


class ValidationLoader:
    """Every row of a packing once, in order, shared out between the ranks row by row.

    Ranks may get one batch more or less than others: the figures are sums, reduced after the last.
    """

    def __init__(self, packing: Packing, *, rows: int, rank: int = 0, world_size: int = 1) -> None:
        self.packing = packing
        self.numbers = np.arange(rank, packing.num_rows, world_size)
        self.rows = rows

    def __len__(self) -> int:
        return math.ceil(len(self.numbers) / self.rows)

    def __iter__(self) -> Iterator[Rows]:
        for start in range(0, len(self.numbers), self.rows):
            yield self.packing.rows(self.numbers[start : start + self.rows])
