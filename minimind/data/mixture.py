"""Several sources as one sequence of examples: which source example i comes from, and its place within that source.

    i ──► source 1?  count₁(i) = round(i · p₁) of the first i examples are its own
      └─► the other i - count₁(i) ──► source 2? ──► … the last source takes what is left

Whole numbers only, no state and no search: example i is known at once, and so is how many each source has given before
it. Each source goes through epochs of its own, in a permutation of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from minimind.data.examples import Examples, ExampleSource
from minimind.data.order import examples_at
from minimind.utils.seeding import stream_seed

PARTS = 2**30  # a share is a whole number of these, so that all products stay below 2⁶³


class Interleave:
    """After i examples no source is more than ½ (1 + H) of them from its share of i, H = 1 + ½ + ⅓ … over the others.

    That is less than two for up to eleven sources: the heaviest are peeled off first, and what is rounded then
    is spread over many.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        shares = _whole_parts(weights)
        self.heaviest_first = sorted(range(len(weights)), key=lambda source: -shares[source])
        self.shares = shares

    def at(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place of the sequence: its source, and how many examples that source gave before."""
        rest = np.array(indices, dtype=np.int64)  # among the examples that no heavier source has taken
        sources = np.full(rest.shape, self.heaviest_first[-1])
        places = rest.copy()
        undecided = np.ones(rest.shape, dtype=bool)
        total = PARTS
        for source in self.heaviest_first[:-1]:
            before = _rounded(rest, self.shares[source], total)
            takes = undecided & (_rounded(rest + 1, self.shares[source], total) > before)
            sources[takes], places[takes] = source, before[takes]
            undecided &= ~takes
            rest = rest - before
            total -= self.shares[source]
        places[undecided] = rest[undecided]
        return sources, places

    def counts(self, index: int) -> list[int]:
        """How many of the first `index` examples each source gives."""
        counts, rest, total = [0] * len(self.shares), index, PARTS
        for source in self.heaviest_first[:-1]:
            counts[source] = int(_rounded(np.int64(rest), self.shares[source], total))
            rest -= counts[source]
            total -= self.shares[source]
        counts[self.heaviest_first[-1]] = rest
        return counts


def _whole_parts(weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights that add up to PARTS; none is nothing."""
    parts = [max(1, round(weight / sum(weights) * PARTS)) for weight in weights]
    parts[parts.index(max(parts))] += PARTS - sum(parts)
    return parts


def _rounded(index: NDArray[np.int64] | np.int64, part: int, total: int) -> NDArray[np.int64]:
    """round(index · part / total), halves up, without ever leaving 64 bits."""
    whole, left = np.divmod(index, total)
    return whole * part + (2 * left * part + total) // (2 * total)


@dataclass(frozen=True)
class Source:
    name: str
    weight: float
    examples: ExampleSource


class Mixture:
    """The endless sequence of training examples of one source or more."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources = sorted(sources, key=lambda source: source.name)  # in whatever order they are written down
        self.interleave = Interleave([source.weight for source in self.sources])
        alone = len(sources) == 1
        self.seeds = [seed if alone else stream_seed(seed, f"source/{source.name}") for source in self.sources]

    def at(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source and the number of its example at each place of the sequence."""
        sources, numbers = self.interleave.at(indices)
        for source in np.unique(sources).tolist():
            chosen = sources == source
            count = self.sources[source].examples.num_examples
            numbers[chosen] = examples_at(numbers[chosen], count, self.seeds[source])
        return sources, numbers

    def read(self, sources: NDArray[np.int64], numbers: NDArray[np.int64]) -> Examples:
        """The examples found by `at`, in that order."""
        if len(self.sources) == 1:
            return self.sources[0].examples.read(numbers)
        chosen = [np.flatnonzero(sources == source) for source in range(len(self.sources))]
        given = [(source.examples, which) for source, which in zip(self.sources, chosen, strict=True) if which.size]
        first, *others = [examples.read(numbers[which]) for examples, which in given]
        if not others:
            return first
        return first.join(others, torch.from_numpy(np.argsort(np.concatenate(chosen))))

    def metrics(self, index: int) -> dict[str, float]:
        """Of the first `index` examples the fraction from each source, and how often it has been gone through."""
        figures: dict[str, float] = {}
        for source, count in zip(self.sources, self.interleave.counts(index), strict=True):
            figures[f"data/{source.name}/fraction"] = count / max(1, index)
            figures[f"data/{source.name}/epoch"] = count / source.examples.num_examples
        return figures
