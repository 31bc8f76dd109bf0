"""Matplotlib without a display, and loss.png."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minimind.runs.metrics_file import read_rows
from minimind.utils.terminal import one_line


@contextmanager
def pyplot() -> Iterator[Any]:
    """Yields pyplot with math text off: a `$` in a name is literal, and would raise if it were not valid TeX."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"text.parse_math": False}):
        yield plt


def plot_loss(metrics: Path, target: Path, title: str) -> None:
    """Draws training and validation loss against tokens."""
    rows = read_rows(metrics)
    with pyplot() as plt:
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for name, label, style in (
            ("train/loss", "training", {"lw": 1.2}),
            ("val/loss", "validation", {"marker": "o"}),
        ):
            points = [(row["tokens"] / 1e6, row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, **style)
        axes.set(title=one_line(title), xlabel="tokens (millions)", ylabel="loss (nats per token)")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(target, dpi=130)
        plt.close(figure)
