"""report.png: the primary metric and the training loss against tokens and time, and each arm's metric."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind.report.analysis import Report, arm_values
from minimind.report.arms_panel import draw_arms, shorten
from minimind.report.curves import MIN_VALIDATIONS, Curve, curve_of, smoothing_window, visible_range
from minimind.report.metrics import Better, metric_of
from minimind.report.plotting import pyplot
from minimind.utils.terminal import one_line

SIZE, DPI = (14, 10.5), 100
# The palette of Okabe and Ito for colour-blind readers, without its yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", ":")
Style = dict[str, Any]


def draw(report: Report, target: Path) -> None:
    styles = styles_of([arm.name for arm in report.arms], report.sweep.baseline)
    runs = [run for run in report.runs if run.finished]
    window = smoothing_window(runs)
    smoothing = f", moving average of {window} log points" if window > 1 else ""
    primary = report.primary.key
    validations = min(sum(primary in row for row in run.rows) for run in runs) if runs else 0
    timed, timed_window = (primary, 1) if validations >= MIN_VALIDATIONS else ("train/loss", window)
    with pyplot() as plt, plt.rc_context({"font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11}):
        figure, ((validation, training), (arms, seconds)) = plt.subplots(2, 2, figsize=SIZE, layout="constrained")
        figure.suptitle(textwrap.fill(one_line(report.sweep.question or report.sweep.name), 100), fontsize=15)
        _curves(validation, report, styles, "tokens", primary, 1)
        validation.set(title=_capitalised(primary), ylabel=_unit(primary))
        _curves(training, report, styles, "tokens", "train/loss", window)
        training.set(title=f"Training loss{smoothing}", ylabel="nats per token")
        draw_arms(arms, report, {arm: style["color"] for arm, style in styles.items()})
        arms.set_title(f"Arms: each {report.unit}, mean, interval of the difference from the baseline")
        _curves(seconds, report, styles, "elapsed_s", timed, timed_window)
        seconds.set(title=f"{_capitalised(timed)} against time (indicative: machines vary)", ylabel=_unit(timed))
        _legend(figure, styles, report.sweep.baseline)
        figure.savefig(target, dpi=DPI)
        plt.close(figure)


def styles_of(names: Sequence[str], baseline: str) -> dict[str, Style]:
    """How to draw each arm: the baseline black and broad; values of one setting from dark to light, else by colour."""
    others = [name for name in names if name != baseline]
    styles: dict[str, Style] = {baseline: {"color": "black", "lw": 3.0}}
    values = arm_values(names)
    if values is not None:
        import matplotlib

        scale = matplotlib.colormaps["viridis"]
        ranked = [name for _, name in sorted(zip(values, names, strict=True))]
        shades = {name: rank / (len(names) - 1) for rank, name in enumerate(ranked)}
        styles |= {name: {"color": scale(0.9 * shades[name]), "lw": 1.7} for name in others}
    else:
        for number, name in enumerate(others):
            line = LINES[number // len(COLOURS) % len(LINES)]
            styles[name] = {"color": COLOURS[number % len(COLOURS)], "ls": line, "lw": 1.7}
    return {name: styles[name] for name in names}


def _capitalised(key: str) -> str:
    """The metric's label as a title, or its key unchanged if it has no label."""
    label = one_line(metric_of(key).label)
    return label if label == key else label[:1].upper() + label[1:]


def _unit(key: str) -> str:
    return "nats per token" if key in ("val/loss", "train/loss") else one_line(metric_of(key).label)


def _legend(figure: Any, styles: dict[str, Style], baseline: str) -> None:
    from matplotlib.lines import Line2D

    labels = {name: shorten(name) + (" (baseline)" if name == baseline else "") for name in styles}
    handles = [Line2D([], [], label=labels[name], **style) for name, style in styles.items()]
    width = 70 + 8 * max(map(len, labels.values()))  # pixels per entry
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), int(SIZE[0] * DPI / width)))


def _curves(axes: Any, report: Report, styles: dict[str, Style], x_key: str, y_key: str, window: int) -> None:
    """Draws the mean of each arm's runs and, against tokens, a band from the lowest to the highest run."""
    curves: list[Curve] = []
    scale = 1e6 if x_key == "tokens" else 1.0
    for arm in [report.baseline, *report.others]:  # the baseline's broad line stays visible below an equal curve
        curve = curve_of([run for run in arm.runs if run.finished], x_key, y_key, window)
        if curve is None:
            continue
        curves.append(curve)
        style = styles[arm.name]
        axes.plot(curve.x / scale, curve.mean, marker="o" if len(curve.x) < 12 else None, ms=5, **style)
        if x_key == "tokens":
            axes.fill_between(curve.x / scale, curve.low, curve.high, color=style["color"], alpha=0.13, lw=0)
    axes.set_xlabel(
        "tokens (millions); bands: lowest to highest run" if x_key == "tokens" else "training time (s), mean over runs"
    )
    rises = metric_of(y_key).better is Better.higher  # its steep start is at the bottom: cut nothing off at the top
    if not rises and (limits := visible_range(curves)):
        axes.set_ylim(*limits)
    if not curves:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="0.45")
    axes.grid(alpha=0.3)
