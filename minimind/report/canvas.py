"""Where plots are drawn: to files, with names as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def canvas() -> Iterator[Any]:
    """Yields pyplot, which reads no `$…$` as mathematics: in a name it is none, and may not even be well-formed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"text.parse_math": False}):
        yield plt
