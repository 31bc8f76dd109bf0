"""Prints a report's table of verdicts, caveats and answer."""

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
        console.print(f"Caveat: {caveat.replace('`', '')}")
    for run in report.runs:
        if exclusion := run.exclusion(report.sweep.metric):
            console.print(f"{run.job.arm}, {report.unit} {run.job.replicate}: {exclusion}; see {run.path}")
    console.print(answer_of(report).replace("`", ""), style="bold")
    console.print(f"{report.folder}/report.html (also .md, .json, .png)", soft_wrap=True)


def _rich_table(table: Table) -> "rich.table.Table":
    import rich.table

    shown = rich.table.Table()
    for column, name in enumerate(table.header):
        is_text = column in table.text_columns
        shown.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for row in table.rows:
        shown.add_row(*((cell.text if isinstance(cell, Link) else cell).replace("`", "") for cell in row))
    return shown
