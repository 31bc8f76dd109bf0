"""Which window comes when: a pure function of (seed, index), without an index file and in constant time.

    index ──► epoch = index // n,  place = index % n
    place ──► a keyed permutation of 0 … n-1, another each epoch ──► window

The permutation is a Feistel network over the next even number of bits that holds n; a result of n or more is put
through again (cycle walking) until it falls below n, which keeps it a bijection of 0 … n-1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.utils.seeding import stream_seed

ROUNDS = 6


def windows_at(indices: ArrayLike, num_windows: int, seed: int) -> NDArray[np.int64]:
    """The windows at these places of the endless sequence, each epoch a new permutation of all windows."""
    index = np.asarray(indices, dtype=np.int64)
    epochs, places = np.divmod(index, num_windows)
    windows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        windows[chosen] = permute(places[chosen], num_windows, stream_seed(seed, f"order/epoch{epoch}"))
    return windows


def permute(places: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """A bijection of 0 … size-1, chosen by `key`, at the given places."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    values = places.astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, key)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half_bits: int, key: int) -> NDArray[np.uint64]:
    """Luby & Rackoff 1988: swaps halves, adding a hash of one to the other; invertible whatever the hash."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for round_ in range(ROUNDS):
        round_key = np.uint64(stream_seed(key, f"round{round_}"))
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << bits) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014); multiplication wraps, as it should."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
