"""loss.png: training and validation loss against tokens."""

from pathlib import Path

from minimind.report.canvas import canvas
from minimind.runs.metrics_file import read_rows
from minimind.utils.terminal import one_line


def plot_loss(metrics: Path, target: Path, title: str) -> None:
    rows = read_rows(metrics)
    with canvas() as plt:
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
