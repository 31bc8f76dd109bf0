"""A mixture keeps its proportions at every step, and each source runs through its epochs as if it were alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import real_targets, write_stream

from minimind.data.mixture import Interleave, Mixture, Source
from minimind.data.packing import WindowPacking

WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)


@given(weights=WEIGHTS, first=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_proportions_hold_within_two_examples_at_every_index(weights: list[float], first: int) -> None:
    interleave = Interleave(weights)
    shares = np.array(interleave.shares) / sum(interleave.shares)
    assert shares == pytest.approx(np.array(weights) / sum(weights), abs=1e-8)
    indices = np.arange(first, first + 300)
    sources, positions = interleave.at(indices)
    counts = np.array(interleave.counts(first))
    for index, source, position in zip(indices.tolist(), sources.tolist(), positions.tolist(), strict=True):
        assert counts.sum() == index
        assert np.abs(counts - index * shares).max() < 2 + 1e-3  # tolerance for floats at 2⁴⁰
        assert position == counts[source]  # positions within each source have no gaps
        counts[source] += 1
    assert interleave.counts(first + 300) == counts.tolist()


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return [
        Source(name, weight, WindowPacking(write_stream(tmp_path / name, [50, 31], first=1000 * number), 8))
        for number, (name, weight) in enumerate([("a", 1.0), ("b", 2.0), ("c", 1.0)])
    ]


def test_each_source_has_its_own_epochs(sources: list[Source]) -> None:
    """After 40 examples, the source with half the weight has completed two epochs of 10, the others one."""
    mixture = Mixture(sources, seed=1)
    targets = real_targets(mixture.read(*mixture.at(np.arange(40))))
    assert sources[0].examples.num_examples == 10
    for first, epochs in ((0, 1), (1000, 2), (2000, 1)):
        own = sorted(target for target in targets if first <= target < first + 1000)
        assert own == sorted(list(range(first + 1, first + 81)) * epochs)
    assert mixture.metrics(40) == {
        "data/a/fraction": 0.25, "data/a/epoch": 1.0, "data/b/fraction": 0.5, "data/b/epoch": 2.0,
        "data/c/fraction": 0.25, "data/c/epoch": 1.0,
    }  # fmt: skip


def test_the_order_of_sources_in_the_configuration_does_not_matter(sources: list[Source]) -> None:
    first, second = Mixture(sources, seed=1), Mixture(sources[::-1], seed=1)
    for start in (0, 10_000):
        indices = np.arange(start, start + 20)
        assert real_targets(first.read(*first.at(indices))) == real_targets(second.read(*second.at(indices)))


def test_each_source_is_shuffled_differently(sources: list[Source]) -> None:
    mixture = Mixture(sources, seed=1)
    indices, numbers = mixture.at(np.arange(40))
    first_epochs = [numbers[indices == index][:10].tolist() for index in range(3)]
    assert len({tuple(order) for order in first_epochs}) == 3
    assert all(sorted(order) == list(range(10)) for order in first_epochs)


def test_a_mixture_of_one_source_has_the_order_of_that_source(sources: list[Source]) -> None:
    from minimind.data.order import examples_at

    indices, numbers = Mixture(sources[:1], seed=5).at(np.arange(50))
    assert not indices.any()
    assert numbers.tolist() == examples_at(np.arange(50), 10, 5).tolist()


def test_the_mixture_never_changes(sources: list[Source]) -> None:
    """A change would silently reshuffle every resumed run."""
    indices, numbers = Mixture(sources, seed=1).at(np.arange(8))
    assert indices.tolist() == [1, 0, 1, 2, 1, 0, 1, 2]
    assert numbers.tolist() == [0, 0, 2, 2, 6, 1, 5, 5]
