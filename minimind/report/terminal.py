"""The report in the terminal: the answer and the table of verdicts."""

from minimind.report import tables
from minimind.report.analysis import Report
from minimind.report.answer import answer_of
from minimind.report.blocks import Link, Table


def print_report(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if report.sweep.question:
        console.print(f"\n[bold]{escape(report.sweep.question)}[/bold]")
    _print_table(tables.verdicts(report))
    for caveat in report.caveats:
        console.print(f"Mind: {escape(caveat.replace('`', ''))}", highlight=False)
    for run in report.runs:
        if trouble := run.trouble(report.sweep.metric):
            console.print(
                escape(f"{run.job.arm}, {report.unit} {run.job.replicate}: {trouble}; see {run.path}"), highlight=False
            )
    console.print(f"[bold]{escape(answer_of(report).replace('`', ''))}[/bold]", highlight=False)
    console.print(f"{report.folder}/report.html (also .md, .json, .png)", highlight=False, soft_wrap=True)


def _print_table(table: Table) -> None:
    import rich.table
    from rich.console import Console
    from rich.text import Text

    shown = rich.table.Table()
    for column, name in enumerate(table.header):
        shown.add_column(
            Text(name), justify="left" if column in table.wordy else "right", no_wrap=column not in table.wordy
        )
    for row in table.rows:
        shown.add_row(*(Text((cell.text if isinstance(cell, Link) else cell).replace("`", "")) for cell in row))
    Console().print(shown)
