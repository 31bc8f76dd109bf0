"""`minimind runs`: lists runs and their state."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from minimind.utils.errors import DamagedFile
from minimind.utils.terminal import say

if TYPE_CHECKING:
    from minimind.runs.folder import RunFolder

DAMAGED = "damaged"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("runs", help="list runs with state, step, tokens, last validation and age")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from minimind.runs.folder import RunFolder
    from minimind.utils.console import VisibleConsole
    from minimind.utils.paths import default_root

    table = Table("run", "state")
    for column in ("step", "tokens", "last validation", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    folders = sorted((default_root() / "runs").glob("*/status.json"), key=lambda path: path.stat().st_mtime)
    problems = []
    for path in folders:
        try:
            table.add_row(path.parent.name, *cells(RunFolder(path.parent)))
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:  # not JSON, or not as a run writes it
            table.add_row(path.parent.name, DAMAGED)
            invalid = f"{path} must be the status of a run, but has invalid values."
            problems.append(str(error) if isinstance(error, DamagedFile) else invalid)
    if folders:
        VisibleConsole().print(table)
    else:
        say(f"No runs in {default_root() / 'runs'} yet; start one with python train.py.")
    for message in problems:
        say(message, file=sys.stderr)
    return 0


def cells(folder: "RunFolder") -> list[str]:
    """The columns after the name: state, step, tokens, last validation, age."""
    from minimind.runs.lock import effective_state

    status = folder.status
    return [
        effective_state(str(status["state"]), folder.lock), f"{status['step']:,}", f"{status['tokens']:,}",
        last_validation(folder), age(time.time() - status["updated"]),
    ]  # fmt: skip


def last_validation(folder: "RunFolder") -> str:
    """The latest value of the run's primary metric, with its name unless it is the validation loss."""
    from minimind.report.metrics import metric_of
    from minimind.runs.metrics_file import read_rows

    metric = metric_of(primary_metric(folder))
    values = [row[metric.key] for row in read_rows(folder.metrics) if metric.key in row]
    name = "" if metric.key == "val/loss" else f"{metric.label} "
    return f"{name}{metric.show(values[-1])}" if values else ""


def primary_metric(folder: "RunFolder") -> str:
    """The primary metric of the run's objective; the slow config.yaml is only read if objectives differ in it."""
    from minimind.objectives.config import primaries, primary_of
    from minimind.report.run_record import hashed_settings

    if len(primaries()) == 1:
        return next(iter(primaries()))
    return primary_of(hashed_settings(folder.config).get("objective.kind"))[0]


def age(seconds: float) -> str:
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= limit:
            return f"{seconds / limit:.0f} {unit}"
    return f"{seconds:.0f} s"
