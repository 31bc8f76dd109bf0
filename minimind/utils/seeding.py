"""One seed, many independent named streams: adding a consumer of randomness never moves another's numbers."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

SEED_BITS = 63


def stream_seed(seed: int, name: str) -> int:
    """The seed of the stream `name` (such as "init", "order" or "dropout/rank0"): 0 … 2⁶³ - 1."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def seed_everything(seed: int, name: str) -> None:
    """Sets Python's, NumPy's and torch's global generators to the stream `name`."""
    import numpy as np
    import torch

    value = stream_seed(seed, name)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@contextmanager
def apart(seed: int, name: str) -> Iterator[None]:
    """Draws from the stream `name` within the block; the global generators then go on as if nothing had been drawn."""
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
