"""Deterministic loaders: step k has the same examples for any number of ranks and workers, and after any restart."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from minimind.data.examples import Examples, ExampleSource
from minimind.data.mixture import Mixture
from minimind.utils.child import leave_signals_to_parent

EXAMPLES_AHEAD = 1024  # numbers computed at once; step by step, that would cost as much as reading a small batch


class TrainLoader:
    """Yields this rank's part of each optimizer step as a list of micro-batches, starting at any step.

    A step takes the next `batch_examples` examples of the global order. They are dealt out to the ranks in turn, in
    blocks of `micro_batch`, so the number of completed steps is the only state.

    `len` is the number of steps in the whole run. Without a length, Lightning would prefetch a step, and `step` would
    be one too high.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_examples: int,
        micro_batch: int,
        num_steps: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.mixture = mixture
        self.batch_examples = batch_examples
        self.num_steps = num_steps
        # this rank's slots in the global batch: (accumulation, micro_batch)
        self.slots = np.arange(batch_examples).reshape(-1, world_size, micro_batch)[:, rank]
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.step = 0
        self.waited_s = 0.0  # total time that the training loop waited for data
        self._planned = range(0)  # steps whose example numbers are in `_sources` and `_numbers`
        self._sources = self._numbers = np.zeros((0, *self.slots.shape), dtype=np.int64)

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[Examples]]:
        steps = iter(self._steps())
        while self.step < self.num_steps:
            start = time.perf_counter()
            micro_batches = next(steps)
            self.waited_s += time.perf_counter() - start
            self.step += 1
            yield micro_batches

    def _steps(self) -> Iterable[list[Examples]]:
        steps = range(self.step, self.num_steps)
        if not (self.num_workers or self.pin_memory):
            return map(self.read, steps)
        return DataLoader(
            _StepDataset(self),
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=4 if self.num_workers else None,
            worker_init_fn=leave_signals_to_parent,  # a signal to the process group must not kill the workers
            generator=torch.Generator(),  # the global generator must not advance, as that would change dropout
        )

    def read(self, step: int) -> list[Examples]:
        if step not in self._planned:
            self._plan(step)
        row = step - self._planned.start
        return [self.mixture.read(*examples) for examples in zip(self._sources[row], self._numbers[row], strict=True)]

    def _plan(self, step: int) -> None:
        """Compute the example numbers of this step and of many after it; of this step only on the first call."""
        ahead = max(1, EXAMPLES_AHEAD // self.slots.size) if self._planned else 1
        self._planned = range(step, step + ahead)
        first = np.arange(step, step + ahead) * self.batch_examples
        self._sources, self._numbers = self.mixture.at(first[:, None, None] + self.slots)

    def metrics(self) -> dict[str, float]:
        """Fraction and epoch of each source of a mixture so far, over all ranks; empty for a single source."""
        num_examples = self.step * self.batch_examples
        return self.mixture.metrics(num_examples) if len(self.mixture.sources) > 1 else {}

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class _StepDataset(Dataset[list[Examples]]):
    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> list[Examples]:
        return self.loader.read(step)


class SequentialLoader:
    """Yields every example of a source once, in order, dealt out to the ranks one by one.

    Ranks may get different numbers of batches, or none: metrics are sums that are reduced at the end.
    """

    def __init__(self, source: ExampleSource, *, batch: int, rank: int = 0, world_size: int = 1) -> None:
        self.source = source
        self.numbers = np.arange(rank, source.num_examples, world_size)
        self.batch = batch

    def __len__(self) -> int:
        return math.ceil(len(self.numbers) / self.batch)

    def __iter__(self) -> Iterator[Examples]:
        for start in range(0, len(self.numbers), self.batch):
            yield self.source.read(self.numbers[start : start + self.batch])


class ValidationLoader:
    """Yields a single item for Lightning: the loaders of all sources by name, which the evaluation loop iterates."""

    def __init__(self, sources: Mapping[str, SequentialLoader]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield dict(self.sources)
