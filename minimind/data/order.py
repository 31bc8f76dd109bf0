"""Shuffled order of the examples: a pure function of (seed, index), in constant time and without an index file.

    index ──► epoch = index // n,  position = index % n
    position ──► keyed permutation of 0 … n-1, a different one each epoch ──► example number

The permutation is a Feistel network over the smallest even number of bits that can represent n-1; a result of n or more
is permuted again (cycle walking) until it is below n, which keeps it a bijection of 0 … n-1.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minimind.utils.seeding import stream_seed

ROUNDS = 6
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def examples_at(indices: ArrayLike, num_examples: int, seed: int) -> NDArray[np.int64]:
    """Example numbers at these indices of the endless sequence; each epoch is a new permutation of all examples."""
    index = np.asarray(indices, dtype=np.int64)
    epochs, positions = np.divmod(index, num_examples)
    numbers = np.empty_like(positions)
    for epoch in np.unique(epochs).tolist():
        in_epoch = epochs == epoch
        numbers[in_epoch] = permute(positions[in_epoch], num_examples, stream_seed(seed, f"order/epoch{epoch}"))
    return numbers


def permute(positions: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Apply the permutation of 0 … size-1 that `key` selects."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    values = _feistel(positions.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=256)
def _round_keys(key: int) -> list[np.uint64]:
    return [np.uint64(stream_seed(key, f"round{round_}")) for round_ in range(ROUNDS)]


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """Feistel network: swap the halves and XOR one with a hash of the other; invertible for any hash.

    Source: Luby & Rackoff 1988.
    """
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        hashed = _hash(right ^ key)
        hashed &= mask
        hashed ^= left
        left, right = right, hashed
    return (left << bits) | right


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele et al. 2014), in place; the multiplications are meant to overflow."""
    values ^= values >> SHIFTS[0]
    values *= FACTORS[0]
    values ^= values >> SHIFTS[1]
    values *= FACTORS[1]
    values ^= values >> SHIFTS[2]
    return values
