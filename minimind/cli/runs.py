"""`minimind runs`: what runs there are, and how they stand."""

import argparse
import time
from pathlib import Path
from typing import Any

from minimind.utils.terminal import say


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("runs", help="list runs with state, step, tokens, last validation loss, age")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from minimind.runs.folder import RunFolder
    from minimind.runs.metrics_file import read_rows
    from minimind.utils.console import VisibleConsole
    from minimind.utils.paths import default_root

    table = Table("run", "state")
    for column in ("step", "tokens", "val loss", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    folders = sorted((default_root() / "runs").glob("*/status.json"), key=lambda path: path.stat().st_mtime)
    for path in folders:
        folder = RunFolder(path.parent)
        status = folder.status
        losses = [row["val/loss"] for row in read_rows(folder.metrics) if "val/loss" in row]
        table.add_row(
            folder.path.name, state_of(status, folder.lock), f"{status['step']:,}", f"{status['tokens']:,}",
            f"{losses[-1]:.4f}" if losses else "", age(time.time() - status["updated"]),
        )  # fmt: skip
    if folders:
        VisibleConsole().print(table)
    else:
        say(f"No runs in {default_root() / 'runs'} yet; python train.py makes one.")
    return 0


def state_of(status: dict[str, Any], lock: Path) -> str:
    """The state as stored, or `interrupted` for a run that says it is running while nobody works on it."""
    from minimind.runs.lock import is_held
    from minimind.runs.states import RunState

    state = str(status["state"])
    return RunState.INTERRUPTED if state == RunState.RUNNING and not is_held(lock) else state


def age(seconds: float) -> str:
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= limit:
            return f"{seconds / limit:.0f} {unit}"
    return f"{seconds:.0f} s"
