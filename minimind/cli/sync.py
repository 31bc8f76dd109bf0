"""`minimind sync`: run folders → W&B, one clean run each, uploaded where there is an account."""

import argparse
import contextlib
import os
import subprocess
from pathlib import Path

from minimind.utils.child import python_module
from minimind.utils.paths import default_root
from minimind.utils.terminal import say


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("sync", help="make the W&B run of a run folder anew, and upload it with an account")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.tracking.clean_run import build
    from minimind.utils.paths import find_existing

    folders = [find_existing(name, "A run folder") for name in arguments.runs]
    os.environ["WANDB_SILENT"] = "true"
    # W&B takes its server from ./wandb/settings, and a run folder, which may be somebody's, has a wandb/ of its own.
    with contextlib.chdir(default_root()):
        built = [build(folder) for folder in folders]
        for folder, (clean, rows, step) in zip(folders, built, strict=True):
            say(f"{folder.name}: {rows} rows up to step {step} in {clean}")
        return upload([clean for clean, _, _ in built])


def upload(folders: list[Path]) -> int:
    from minimind.tracking.account import why_offline

    if reason := why_offline():
        say(f"Not uploaded ({reason}). With an account (wandb login) the same command uploads.")
        return 0
    command = python_module("wandb", "sync", "--include-synced", *map(str, folders))
    return subprocess.run(command, env={**os.environ, "WANDB_SILENT": "false"}).returncode
