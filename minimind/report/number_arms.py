"""Arms that are values of one quantity, such as learning rates."""

import math
from collections.abc import Sequence


def numbers_of(names: Sequence[str]) -> list[float] | None:
    """What `3e-3` or `lr=3e-3` says, if all names are numbers, of one setting where they name any."""
    settings, values = zip(*(name.rpartition("=")[::2] for name in names), strict=True)
    if len(set(settings)) > 1 or len(names) < 2:
        return None
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None  # `inf` has no place on an axis
