"""The report in the terminal: the answer and the table of verdicts."""

from typing import TYPE_CHECKING

from minimind.report import tables
from minimind.report.analysis import Report
from minimind.report.answer import answer_of
from minimind.report.blocks import Link, Table

if TYPE_CHECKING:
    import rich.table


def print_report(report: Report) -> None:
    from minimind.utils.console import VisibleConsole

    console = VisibleConsole()
    if report.sweep.question:
        console.print(f"\n{report.sweep.question}", style="bold")
    console.print(_rich_table(tables.verdicts(report)))
    for caveat in report.caveats:
        console.print(f"Mind: {caveat.replace('`', '')}")
    for run in report.runs:
        if trouble := run.trouble(report.sweep.metric):
            console.print(f"{run.job.arm}, {report.unit} {run.job.replicate}: {trouble}; see {run.path}")
    console.print(answer_of(report).replace("`", ""), style="bold")
    console.print(f"{report.folder}/report.html (also .md, .json, .png)", soft_wrap=True)


def _rich_table(table: Table) -> "rich.table.Table":
    import rich.table

    shown = rich.table.Table()
    for column, name in enumerate(table.header):
        wordy = column in table.wordy
        shown.add_column(name, justify="left" if wordy else "right", no_wrap=not wordy)
    for row in table.rows:
        shown.add_row(*((cell.text if isinstance(cell, Link) else cell).replace("`", "") for cell in row))
    return shown
