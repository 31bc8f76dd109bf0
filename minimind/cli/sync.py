"""`minimind sync`: rebuilds a clean W&B run from each run folder, and uploads it if there is an account."""

import argparse
import contextlib
import os
import subprocess
from pathlib import Path

from minimind.utils.child import python_module
from minimind.utils.paths import default_root
from minimind.utils.terminal import say


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sync", help="rebuild the W&B run of a run folder, and upload it if there is an account"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.tracking.clean_run import build
    from minimind.utils.paths import find_existing

    folders = [find_existing(name, "A run folder") for name in arguments.runs]
    os.environ["WANDB_SILENT"] = "true"
    # W&B reads its server from ./wandb/settings, and the current folder may be a run folder from someone else.
    with contextlib.chdir(default_root()):
        built = [build(folder) for folder in folders]
        for folder, (clean, rows, step) in zip(folders, built, strict=True):
            say(f"{folder.name}: {rows} rows up to step {step} in {clean}")
        return upload([clean for clean, _, _ in built])


def upload(folders: list[Path]) -> int:
    from minimind.tracking.mirror import why_offline

    if reason := why_offline():
        say(f"Not uploaded ({reason}). To upload, log in (wandb login) and run the same command again.")
        return 0
    command = python_module("wandb", "sync", "--include-synced", *map(str, folders))
    return subprocess.run(command, env={**os.environ, "WANDB_SILENT": "false"}).returncode
