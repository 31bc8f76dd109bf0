"""Interleaves several sources into one sequence of examples: example i → source, and position within that source.

    i ──► source 1?  it supplies count₁(i) = round(i · p₁) of the first i examples
      └─► the other i - count₁(i) ──► source 2? ──► … the last source takes the rest

Integer arithmetic without state or search: both the source of example i and the number of examples taken from each
source before it are computed directly. Each source has its own epochs and permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from minimind.data.examples import Examples, ExampleSource
from minimind.data.order import examples_at
from minimind.utils.seeding import stream_seed

SHARE_UNITS = 2**30  # shares are integers that add up to this, so that all products stay below 2⁶³


class Interleave:
    """Deterministic interleaving of sources in proportion to their weights.

    After i examples, each source's count is within ½ (1 + H) of its share of i, where H = 1 + ½ + ⅓ … over the other
    sources. That is less than two for up to eleven sources: the heaviest sources are split off first, so that their
    rounding errors are spread over many others.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        shares = _integer_shares(weights)
        self.heaviest_first = sorted(range(len(weights)), key=lambda source: -shares[source])
        self.shares = shares

    def at(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each example, and how many earlier examples come from that source."""
        rest = np.array(indices, dtype=np.int64)  # index among the examples that no heavier source takes
        sources = np.full(rest.shape, self.heaviest_first[-1])
        positions = rest.copy()
        undecided = np.ones(rest.shape, dtype=bool)
        total = SHARE_UNITS
        for source in self.heaviest_first[:-1]:
            before = _rounded(rest, self.shares[source], total)
            takes = undecided & (_rounded(rest + 1, self.shares[source], total) > before)
            sources[takes], positions[takes] = source, before[takes]
            undecided &= ~takes
            rest = rest - before
            total -= self.shares[source]
        positions[undecided] = rest[undecided]
        return sources, positions

    def counts(self, index: int) -> list[int]:
        """How many of the first `index` examples come from each source."""
        counts, rest, total = [0] * len(self.shares), index, SHARE_UNITS
        for source in self.heaviest_first[:-1]:
            counts[source] = int(_rounded(np.int64(rest), self.shares[source], total))
            rest -= counts[source]
            total -= self.shares[source]
        counts[self.heaviest_first[-1]] = rest
        return counts


def _integer_shares(weights: Sequence[float]) -> list[int]:
    """Positive integers in proportion to the weights that add up to SHARE_UNITS."""
    shares = [max(1, round(weight / sum(weights) * SHARE_UNITS)) for weight in weights]
    shares[shares.index(max(shares))] += SHARE_UNITS - sum(shares)
    return shares


def _rounded(index: NDArray[np.int64] | np.int64, share: int, total: int) -> NDArray[np.int64]:
    """round(index · share / total), halves rounded up, without overflowing 64 bits."""
    quotient, remainder = np.divmod(index, total)
    return quotient * share + (2 * remainder * share + total) // (2 * total)


@dataclass(frozen=True)
class Source:
    name: str
    weight: float
    examples: ExampleSource


class Mixture:
    """Endless sequence of training examples from one or more sources."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources = sorted(sources, key=lambda source: source.name)  # independent of the order in the configuration
        self.interleave = Interleave([source.weight for source in self.sources])
        is_single = len(sources) == 1
        self.seeds = [seed if is_single else stream_seed(seed, f"source/{source.name}") for source in self.sources]

    def at(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each example of the sequence, and the example's number within that source."""
        sources, numbers = self.interleave.at(indices)
        for source in np.unique(sources).tolist():
            from_source = sources == source
            count = self.sources[source].examples.num_examples
            numbers[from_source] = examples_at(numbers[from_source], count, self.seeds[source])
        return sources, numbers

    def read(self, sources: NDArray[np.int64], numbers: NDArray[np.int64]) -> Examples:
        """Read the examples that `at` returned, in that order."""
        if len(self.sources) == 1:
            return self.sources[0].examples.read(numbers)
        slots = [np.flatnonzero(sources == source) for source in range(len(self.sources))]
        used = [(source.examples, own) for source, own in zip(self.sources, slots, strict=True) if own.size]
        first, *others = [examples.read(numbers[own]) for examples, own in used]
        if not others:
            return first
        return first.join(others, torch.from_numpy(np.argsort(np.concatenate(slots))))

    def metrics(self, index: int) -> dict[str, float]:
        """Fraction of the first `index` examples that each source supplies, and the epoch it has reached."""
        metrics: dict[str, float] = {}
        for source, count in zip(self.sources, self.interleave.counts(index), strict=True):
            metrics[f"data/{source.name}/fraction"] = count / max(1, index)
            metrics[f"data/{source.name}/epoch"] = count / source.examples.num_examples
        return metrics
