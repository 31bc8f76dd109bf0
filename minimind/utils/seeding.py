"""Named random streams derived from one seed: a new consumer of randomness does not change the others' numbers."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

SEED_BITS = 63


def stream_seed(seed: int, name: str) -> int:
    """Seed of the stream `name` (such as "init", "order" or "dropout/rank0"): 0 … 2⁶³ - 1."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def seed_everything(seed: int, name: str) -> None:
    """Seed Python's, NumPy's and torch's global generators with the stream `name`."""
    import numpy as np
    import torch

    value = stream_seed(seed, name)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@contextmanager
def isolated_stream(seed: int, name: str) -> Iterator[None]:
    """Use the stream `name` for the global generators within the block, then restore their state."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        seed_everything(seed, name)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
