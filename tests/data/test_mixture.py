"""A mixture keeps its proportions at every moment, and each source goes through its rows as if it were alone."""

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
def test_proportions_hold_within_two_rows_at_every_moment(weights: list[float], first: int) -> None:
    interleave = Interleave(weights)
    shares = np.array(interleave.shares) / sum(interleave.shares)
    assert shares == pytest.approx(np.array(weights) / sum(weights), abs=1e-8)
    indices = np.arange(first, first + 300)
    sources, places = interleave.at(indices)
    counts = np.array(interleave.counts(first))
    for index, source, place in zip(indices.tolist(), sources.tolist(), places.tolist(), strict=True):
        assert counts.sum() == index
        assert np.abs(counts - index * shares).max() < 2 + 1e-3  # the last for floats at 2⁴⁰
        assert place == counts[source]  # each source counts its own rows without a gap
        counts[source] += 1
    assert interleave.counts(first + 300) == counts.tolist()


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return [
        Source(name, weight, WindowPacking(write_stream(tmp_path / name, [50, 31], first=1000 * number), 8))
        for number, (name, weight) in enumerate([("a", 1.0), ("b", 2.0), ("c", 1.0)])
    ]


def test_each_source_has_epochs_of_its_own(sources: list[Source]) -> None:
    """After 40 rows the source of half the weight has shown its 10 rows twice, the others once."""
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


def test_the_order_of_writing_sources_down_changes_nothing(sources: list[Source]) -> None:
    one, other = Mixture(sources, seed=1), Mixture(sources[::-1], seed=1)
    for start in (0, 10_000):
        indices = np.arange(start, start + 20)
        assert real_targets(one.read(*one.at(indices))) == real_targets(other.read(*other.at(indices)))


def test_sources_are_shuffled_each_its_own_way(sources: list[Source]) -> None:
    mixture = Mixture(sources, seed=1)
    numbers, rows = mixture.at(np.arange(40))
    first_epochs = [rows[numbers == number][:10].tolist() for number in range(3)]
    assert len({tuple(order) for order in first_epochs}) == 3
    assert all(sorted(order) == list(range(10)) for order in first_epochs)


def test_a_mixture_of_one_is_that_one(sources: list[Source]) -> None:
    from minimind.data.order import examples_at

    numbers, rows = Mixture(sources[:1], seed=5).at(np.arange(50))
    assert not numbers.any()
    assert rows.tolist() == examples_at(np.arange(50), 10, 5).tolist()


def test_the_mixture_of_today_is_the_mixture_of_tomorrow(sources: list[Source]) -> None:
    """A change here would silently reshuffle every run that is resumed."""
    numbers, rows = Mixture(sources, seed=1).at(np.arange(8))
    assert numbers.tolist() == [1, 0, 1, 2, 1, 0, 1, 2]
    assert rows.tolist() == [0, 0, 2, 2, 6, 1, 5, 5]
