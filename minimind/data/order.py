"""Which row comes when: a pure function of (seed, index), without an index file and in constant time.

    index ──► epoch = index // n,  place = index % n
    place ──► a keyed permutation of 0 … n-1, another each epoch ──► row

The permutation is a Feistel network over the next even number of bits that holds n; a result of n or more is put
through again (cycle walking) until it falls below n, which keeps it a bijection of 0 … n-1.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.utils.seeding import stream_seed

ROUNDS = 6
THIRTY, TWENTY_SEVEN, THIRTY_ONE = np.uint64(30), np.uint64(27), np.uint64(31)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def examples_at(indices: ArrayLike, num_examples: int, seed: int) -> NDArray[np.int64]:
    """The rows at these places of the endless sequence, each epoch a new permutation of all rows."""
    index = np.asarray(indices, dtype=np.int64)
    epochs, places = np.divmod(index, num_examples)
    rows = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        rows[chosen] = permute(places[chosen], num_examples, stream_seed(seed, f"order/epoch{epoch}"))
    return rows


def permute(places: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """A bijection of 0 … size-1, chosen by `key`, at the given places."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    values = _feistel(places.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=256)
def _round_keys(key: int) -> list[np.uint64]:
    return [np.uint64(stream_seed(key, f"round{round_}")) for round_ in range(ROUNDS)]


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """Luby & Rackoff 1988: swaps halves, adding a hash of one to the other; invertible whatever the hash."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        hashed = _mixed(right ^ key)
        hashed &= mask
        hashed ^= left
        left, right = right, hashed
    return (left << bits) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014), in place; multiplication wraps, as it should."""
    values ^= values >> THIRTY
    values *= FACTORS[0]
    values ^= values >> TWENTY_SEVEN
    values *= FACTORS[1]
    values ^= values >> THIRTY_ONE
    return values
