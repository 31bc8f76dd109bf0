"""The content of a report: its sections, in order, as blocks."""

from collections.abc import Iterable
from typing import Any

from minimind.report import tables
from minimind.report.analysis import Report
from minimind.report.answer import answer_of
from minimind.report.blocks import Block, Bullets, Code, Heading, Paragraph, Picture
from minimind.report.comparable import ACCELERATOR, FINGERPRINT, PER_RUN, PRECISION, held_constant
from minimind.report.metrics import metric_of
from minimind.report.statistics import CONFIDENCE

PICTURE = "report.png"
CAPTION = (
    "Curves: the mean over an arm's runs with a band from the lowest to the highest; the steep initial drop is cut "
    "off. Arms: a point for each run, a diamond for the mean, and a bar for the interval of the difference, offset by "
    "the baseline's mean (dashed, with the margin in grey)."
)


def content(report: Report) -> list[Block]:
    return [*_opening(report), *_metrics(report), *_comparison(report), *_reproduction(report), *_runs(report)]


def title(report: Report) -> str:
    return report.sweep.question or report.sweep.name


def _opening(report: Report) -> list[Block]:
    blocks: list[Block] = [Heading(title(report), 1)]
    if report.sweep.claim:
        blocks.append(Paragraph(report.sweep.claim, lead="Claim."))
    blocks.append(Paragraph(answer_of(report), lead="Answer."))
    if report.caveats:
        blocks += [Paragraph("", lead="Caveats."), Bullets(report.caveats)]
    blocks += [tables.verdicts(report), Paragraph(how_to_read(report))]
    if any(run.finished for run in report.runs):
        blocks += [Picture(PICTURE, f"Loss curves, and {report.metric.label} by arm"), Paragraph(CAPTION)]
    return blocks


def how_to_read(report: Report) -> str:
    """How to read the table of verdicts: the statistics in three sentences."""
    better, margin, count = report.metric.better, report.margin, len(report.others)
    text = f"Mean ± standard deviation over {report.unit}s" + (f"; {better.value} is better." if better else ".")
    if count:
        each = f" (Bonferroni: {1 - (1 - CONFIDENCE) / count:.2%} each)"
        simultaneous = f", simultaneous over all {count} comparisons{each}" if count > 1 else ""
        text += (
            f" Differences are between runs of the same {report.unit}; in brackets, {CONFIDENCE:.0%} paired-t "
            f"confidence intervals{simultaneous}; df: degrees of freedom."
        )
    return text + (f" Margin (the smallest difference that matters): {margin:.3g}." if margin else "")


def _metrics(report: Report) -> list[Block]:
    if not any(run.finished for run in report.runs):
        return []
    blocks: list[Block] = [Heading("Metrics"), tables.metrics(report)]
    if report.sweep.kind == "cost":
        blocks += [
            Paragraph("The same as median (quartiles), which a single outlier does not affect:"),
            tables.metrics(report, tables.median_and_quartiles),
        ]
    if constant := tables.constant_metrics(report):
        same = ", ".join(f"{metric_of(key).label} {metric_of(key).show(value)}" for key, value in constant.items())
        blocks.append(Paragraph(f"Equal in every run: {same}."))
    blocks.append(
        Paragraph(
            "Tokens/s, MFU and expert load of a run are medians over its log points except the first; training time "
            "excludes validation and checkpoints; memory is the peak of the main process."
        )
    )
    return blocks


def _comparison(report: Report) -> list[Block]:
    started = [run for run in report.runs if run.settings]
    blocks: list[Block] = [Heading("What the arms change"), tables.changes(report), Heading("What was held constant")]
    if not started:
        return [*blocks, Paragraph("No run has started yet, so there are no settings to compare.")]
    changed = {key for keys in report.sweep.differs.values() for key in keys}
    num_equal = sum(key not in changed and key not in PER_RUN for key in started[0].settings)
    same = [
        f"{key} {str(held_constant(started[0])[key])[:12]}"
        for key in (FINGERPRINT, PRECISION, ACCELERATOR)
        if len({str(held_constant(run)[key]) for run in started}) == 1
    ]
    budget = f" Budget: equal {report.sweep.budget}." if report.sweep.budget else ""
    return [
        *blocks,
        Paragraph(
            f"Equal in all {len(started)} runs that have started: the {num_equal} settings that can change a metric "
            f"and are not listed above, {', '.join(same)}.{budget}"
        ),
    ]


def _runs(report: Report) -> list[Block]:
    return [Heading("Runs"), tables.runs(report)]


def _reproduction(report: Report) -> list[Block]:
    started = [run.status for run in report.runs if run.status]
    facts: dict[str, list[str | None]] = {
        "hardware": [_machine(status.get("machine", {})) for status in started],
        "processes × threads": [_layout(status.get("auto", {})) for status in started],
        "versions": [", ".join(f"{name} {v}" for name, v in status.get("versions", {}).items()) for status in started],
        "git commit": [status.get("git_commit") for status in started],
        "source code": [status.get("source_hash") for status in started],
        "data fingerprint": [status.get("data_fingerprint") for status in started],
    }
    lines = [f"{name}: {_distinct(values)}" for name, values in facts.items() if _distinct(values)]
    return [Heading("How to reproduce"), Code(report.sweep.command), *([Bullets(lines)] if lines else [])]


def _machine(machine: dict[str, Any]) -> str | None:
    return f"{machine.get('device')}, {machine.get('cores')} cores, host {machine.get('host')}" if machine else None


def _layout(auto: dict[str, Any]) -> str | None:
    return f"{auto.get('world_size', 1)} × {auto.get('num_threads')}" if auto else None


def _distinct(values: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(value for value in values if value))
