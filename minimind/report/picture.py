"""report.png: validation and training loss against tokens and seconds, and the arms against the metric."""

import textwrap
from pathlib import Path
from typing import Any

from minimind.report.analysis import Report
from minimind.report.arms_panel import draw_arms, shortened
from minimind.report.canvas import canvas
from minimind.report.curves import FEWEST_VALIDATIONS, Curve, curve_of, usual_window, visible_range
from minimind.report.metrics import Better, metric_of
from minimind.report.styles import Style, styles_of
from minimind.utils.terminal import one_line

SIZE, DPI = (14, 10.5), 100


def draw(report: Report, target: Path) -> None:
    styles = styles_of([arm.name for arm in report.arms], report.sweep.baseline)
    runs = [run for run in report.runs if run.finished]
    window = usual_window(runs)
    smoothing = f", moving average of {window} log points" if window > 1 else ""
    judged = report.primary
    validated = min(sum(judged.key in row for row in run.rows) for run in runs) if runs else 0
    key, against = (judged.key, 1) if validated >= FEWEST_VALIDATIONS else ("train/loss", window)
    with canvas() as plt, plt.rc_context({"font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11}):
        figure, ((validation, training), (arms, seconds)) = plt.subplots(2, 2, figsize=SIZE, layout="constrained")
        figure.suptitle(textwrap.fill(one_line(report.sweep.question or report.sweep.name), 100), fontsize=15)
        _curves(validation, report, styles, "tokens", judged.key, 1)
        validation.set(title=_capitalised(judged.key), ylabel=_unit(judged.key))
        _curves(training, report, styles, "tokens", "train/loss", window)
        training.set(title=f"Training loss{smoothing}", ylabel="nats per token")
        draw_arms(arms, report, {arm: style["color"] for arm, style in styles.items()})
        arms.set_title(f"Arms: each {report.unit}, mean, interval of the difference to the baseline")
        _curves(seconds, report, styles, "elapsed_s", key, against)
        seconds.set(title=f"{_capitalised(key)} against time (a reading: machines vary)", ylabel=_unit(key))
        _legend(figure, styles, report.sweep.baseline)
        figure.savefig(target, dpi=DPI)
        plt.close(figure)


def _capitalised(key: str) -> str:
    """The label of a metric as a title; a metric without a label keeps its key."""
    label = one_line(metric_of(key).label)
    return label if label == key else label[:1].upper() + label[1:]


def _unit(key: str) -> str:
    return "nats per token" if key in ("val/loss", "train/loss") else one_line(metric_of(key).label)


def _legend(figure: Any, styles: dict[str, Style], baseline: str) -> None:
    from matplotlib.lines import Line2D

    labels = {name: shortened(name) + (" (baseline)" if name == baseline else "") for name in styles}
    handles = [Line2D([], [], label=labels[name], **style) for name, style in styles.items()]
    width = 70 + 8 * max(map(len, labels.values()))  # pixels of an entry
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), int(SIZE[0] * DPI / width)))


def _curves(axes: Any, report: Report, styles: dict[str, Style], x_key: str, y_key: str, window: int) -> None:
    """A mean line for each arm; against tokens with a band from the lowest to the highest run."""
    curves: list[Curve] = []
    scale = 1e6 if x_key == "tokens" else 1.0
    for arm in [report.baseline, *report.others]:  # one that is as good lies on it, and both are seen
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
    rises = metric_of(y_key).better is Better.higher  # then its steep beginning is below
    if not rises and (limits := visible_range(curves)):
        axes.set_ylim(*limits)
    if not curves:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color="0.45")
    axes.grid(alpha=0.3)
