"""The order of examples is a bijection in each epoch, and does not depend on which indices are computed together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.order import examples_at, permute


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


@given(size=st.integers(1, 500), seed=st.integers(0, 2**31), epochs=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_every_epoch_has_every_example_once(size: int, seed: int, epochs: int) -> None:
    numbers = examples_at(np.arange(size * epochs), size, seed).reshape(epochs, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in numbers)


def test_epochs_and_seeds_differ() -> None:
    first, second = examples_at(np.arange(2000), 1000, seed=1).reshape(2, 1000)
    assert (first == second).mean() < 0.02
    assert (first == examples_at(np.arange(1000), 1000, seed=2)).mean() < 0.02


def test_single_lookups_agree_with_a_batched_one() -> None:
    everything = examples_at(np.arange(300), 77, seed=5)
    assert [int(examples_at([i], 77, seed=5)[0]) for i in (0, 76, 77, 154, 299)] == [
        int(everything[i]) for i in (0, 76, 77, 154, 299)
    ]


def test_order_looks_random() -> None:
    """Consecutive examples are not adjacent in the text: their mean distance is a third of the size."""
    size = 10_000
    numbers = permute(np.arange(size), size, key=7)
    assert abs(np.abs(np.diff(numbers)).mean() / size - 1 / 3) < 0.02


def test_the_order_never_changes() -> None:
    """A change would silently reshuffle every resumed run."""
    assert examples_at(np.arange(12), 10, seed=1).tolist() == [7, 2, 9, 6, 0, 8, 3, 5, 4, 1, 0, 5]
