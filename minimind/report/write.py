"""A sweep folder gets its report: report.md, report.json, report.png, report.html."""

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
    """Reads sweep.json and the run folders; `baseline` and `metric` in place of the sweep's own.

    Raises:
        UserError: there is no sweep, it has symbolic links, runs differ in what was to be held equal, or none has the
            metric.
    """
    sweep = load_sweep(folder)
    refuse_links(folder)
    asked = reframed(sweep, baseline, metric)
    report = analyse(folder, asked)
    report = replace(report, caveats=[*_chosen_afterwards(sweep, asked), *report.caveats])
    blocks = content(report)
    if any(run.finished for run in report.runs):
        draw(report, folder / PICTURE)
    write_text(folder / "report.md", to_markdown(blocks))
    write_text(folder / "report.html", to_html(blocks, title(report), folder))
    write_json(folder / "report.json", as_json(report))
    return report


def _chosen_afterwards(sweep: Sweep, asked: Sweep) -> list[str]:
    found = []
    if asked.baseline != sweep.baseline:
        found.append(f"the baseline was chosen for this report; the sweep's own is `{sweep.baseline}`.")
    if asked.metric != sweep.metric:
        found.append(f"the metric was chosen for this report, without a margin; the sweep's own is {sweep.metric}.")
    return found
