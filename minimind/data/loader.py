"""Steps by number: step k of the run holds the same examples whatever the processes, workers or restarts."""

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

EXAMPLES_AHEAD = 1024  # found in the order at a time: one by one they would cost as much as a small batch itself


class TrainLoader:
    """This rank's part of each optimizer step, as a list of micro-batches, from any step on.

    A step takes `batch_examples` examples of the global order. They go in blocks of `micro_batch` to the ranks in
    turn, so the number of steps done is all there is to save.
    It has a length (all steps of the run): Lightning would otherwise read one step ahead of its count.
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
        # of a step, where each micro-batch of this rank lies: (accumulation, micro_batch)
        self.share = np.arange(batch_examples).reshape(-1, world_size, micro_batch)[:, rank]
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.step = 0
        self.waited_s = 0.0  # in which the training loop had to wait for data
        self._planned = range(0)  # steps whose examples are known
        self._sources = self._numbers = np.zeros((0, *self.share.shape), dtype=np.int64)

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
            _StepByNumber(self),
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=4 if self.num_workers else None,
            worker_init_fn=leave_signals_to_parent,  # a signal to all must not take the last step's data
            generator=torch.Generator(),  # else the number of workers would move the global stream, and dropout
        )

    def read(self, step: int) -> list[Examples]:
        if step not in self._planned:
            self._plan(step)
        place = step - self._planned.start
        return [self.mixture.read(*at) for at in zip(self._sources[place], self._numbers[place], strict=True)]

    def _plan(self, step: int) -> None:
        """Finds the examples of this step, and of many after it unless it is the first: a seek waits for one."""
        ahead = max(1, EXAMPLES_AHEAD // self.share.size) if self._planned else 1
        self._planned = range(step, step + ahead)
        first = np.arange(step, step + ahead) * self.batch_examples
        self._sources, self._numbers = self.mixture.at(first[:, None, None] + self.share)

    def metrics(self) -> dict[str, float]:
        """What has been taken from each source of a mixture, over all ranks."""
        taken = self.step * self.batch_examples
        return self.mixture.metrics(taken) if len(self.mixture.sources) > 1 else {}

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class _StepByNumber(Dataset[list[Examples]]):
    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> list[Examples]:
        return self.loader.read(step)


class EachOnce:
    """Every example of a source once, in order, shared out between the ranks one by one.

    Ranks may get one batch more or less than others, or none: metrics are sums, reduced after the last.
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
    """What Lightning takes for a loader of one batch: all sources by name, which the evaluation loop goes through."""

    def __init__(self, sources: Mapping[str, EachOnce]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield dict(self.sources)
