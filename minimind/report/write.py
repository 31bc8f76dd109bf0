"""Writes report.md, report.json, report.png and report.html into a sweep folder."""

from dataclasses import replace
from pathlib import Path

from minimind.report.analysis import Report, analyse, reframed
from minimind.report.as_json import as_json
from minimind.report.content import PICTURE, content, title
from minimind.report.html import to_html
from minimind.report.markdown import to_markdown
from minimind.report.picture import draw
from minimind.report.sweep_file import Sweep, load_sweep
from minimind.runs.links import refuse_links
from minimind.utils.files import write_json, write_text


def write_report(folder: Path, baseline: str | None = None, metric: str | None = None) -> Report:
    """Analyses the sweep in `folder`; `baseline` and `metric` override the sweep's own.

    Raises:
        UserError: there is no sweep, it contains symbolic links, runs differ in what must be held constant, or none
            has the metric.
    """
    sweep = load_sweep(folder)
    refuse_links(folder)
    requested = reframed(sweep, baseline, metric)
    report = analyse(folder, requested)
    report = replace(report, caveats=[*_chosen_afterwards(sweep, requested), *report.caveats])
    blocks = content(report)
    if any(run.finished for run in report.runs):
        draw(report, folder / PICTURE)
    write_text(folder / "report.md", to_markdown(blocks))
    write_text(folder / "report.html", to_html(blocks, title(report), folder))
    write_json(folder / "report.json", as_json(report))
    return report


def _chosen_afterwards(sweep: Sweep, requested: Sweep) -> list[str]:
    found = []
    if requested.baseline != sweep.baseline:
        found.append(f"The baseline was chosen for this report; the sweep's own is `{sweep.baseline}`.")
    if requested.metric != sweep.metric:
        found.append(f"The metric was chosen for this report and has no margin; the sweep's own is {sweep.metric}.")
    return found
