"""report.png: losses against tokens and seconds, and the arms against the metric."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind.report.analysis import Arm, Report
from minimind.report.arms_panel import draw_arms
from minimind.report.curves import FEWEST_VALIDATIONS, Curve, curve_of, usual_window, visible_range
from minimind.report.number_arms import numbers_of

# Okabe and Ito's, which the colour-blind tell apart, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", ":")
SIZE, DPI = (14, 10.5), 100
Style = dict[str, Any]


def draw(report: Report, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    styles = {arm.name: style for arm, style in zip(report.arms, styles_of(report.arms), strict=True)}
    runs = [run for run in report.runs if run.finished]
    window = usual_window(runs)
    smoothing = f", moving average of {window} log points" if window > 1 else ""
    validated = min(sum("val/loss" in row for row in run.rows) for run in runs) if runs else 0
    key, against = ("val/loss", 1) if validated >= FEWEST_VALIDATIONS else ("train/loss", window)
    name = "validation loss" if key == "val/loss" else "training loss"
    with plt.rc_context({"font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11}):
        figure, ((validation, training), (arms, seconds)) = plt.subplots(2, 2, figsize=SIZE, layout="constrained")
        figure.suptitle(textwrap.fill(report.sweep.question or report.sweep.name, 100), fontsize=15)
        _curves(validation, report, styles, "tokens", "val/loss", 1)
        validation.set(title="Validation loss", ylabel="nats per token")
        _curves(training, report, styles, "tokens", "train/loss", window)
        training.set(title=f"Training loss{smoothing}", ylabel="nats per token")
        draw_arms(arms, report, {arm: style["color"] for arm, style in styles.items()})
        arms.set_title(f"Arms: each {report.unit}, mean, interval of the difference to the baseline")
        _curves(seconds, report, styles, "elapsed_s", key, against)
        seconds.set(title=f"{name.capitalize()} against time (a reading: machines vary)", ylabel="nats per token")
        handles = [plt.Line2D([], [], label=arm, **style) for arm, style in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        figure.savefig(target, dpi=DPI)
        plt.close(figure)


def styles_of(arms: Sequence[Arm]) -> list[Style]:
    """The baseline black; values of one quantity from dark to light; else a colour and a line for each."""
    numbers = numbers_of([arm.name for arm in arms])
    rest: list[Style]
    if numbers is None:
        rest = [
            {"color": COLOURS[i % len(COLOURS)], "ls": LINES[i // len(COLOURS) % len(LINES)]}
            for i in range(len(arms) - 1)
        ]
    else:
        import matplotlib

        order = sorted(numbers)
        scale = matplotlib.colormaps["viridis"]
        rest = [{"color": scale(0.9 * order.index(number) / (len(order) - 1))} for number in numbers[1:]]
    return [{"color": "black", "lw": 2.4}, *({"lw": 1.7, **style} for style in rest)]


def _curves(axes: Any, report: Report, styles: dict[str, Style], x_key: str, y_key: str, window: int) -> None:
    """A mean line for each arm; against tokens with a band from the lowest to the highest run."""
    curves: list[Curve] = []
    scale = 1e6 if x_key == "tokens" else 1.0
    for arm in reversed(report.arms):  # the baseline on top
        curve = curve_of([run for run in arm.runs if run.finished], x_key, y_key, window)
        if curve is None:
            continue
        curves.append(curve)
        style = styles[arm.name]
        axes.plot(curve.x / scale, curve.mean, marker="o" if len(curve.x) < 12 else None, ms=5, **style)
        if x_key == "tokens":
            axes.fill_between(curve.x / scale, curve.low, curve.high, color=style["color"], alpha=0.13, lw=0)
    axes.set_xlabel(
        "tokens (millions); bands: lowest to highest run" if x_key == "tokens" else "training seconds, mean"
    )
    if limits := visible_range(curves):
        axes.set_ylim(*limits)
    if not curves:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color="0.45")
    axes.grid(alpha=0.3)
