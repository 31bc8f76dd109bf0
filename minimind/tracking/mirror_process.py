"""The process beside a run that tells W&B what the run folder has: nothing it does can stop or slow training.

Started by `WandbMirror` with the run folder; a line of JSON on standard input has the settings, a second one comes
when the run ends. The input ends without one when the run was killed.
"""

import json
import os
import select
import sys
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from minimind.runs.folder import RunFolder
from minimind.runs.states import Exit
from minimind.tracking.account import why_offline
from minimind.tracking.config import WandbSettings
from minimind.tracking.mirror import Mirror
from minimind.utils.child import leave_signals_to_parent
from minimind.utils.terminal import say

SAID_WHY = 3  # exit code of a mirror that gave up and said so
SECONDS_BETWEEN_LOOKS = 1.0


def main() -> None:
    leave_signals_to_parent()
    os.environ.pop("WANDB_SERVICE", None)  # of whoever started the run: it may end first, or hold this run's id
    stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what W&B has to say, a user can do nothing about
    run = RunFolder(Path(sys.argv[1]))
    try:
        with open(0, "rb", buffering=0) as stdin:
            mirror_run(run, stdin, stderr)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        stopped = f"W&B: the mirror has stopped ({reason}); the run goes on. Afterwards: {sync_command(run)}"
        say(stopped, file=stderr)
        os._exit(SAID_WHY)  # W&B's own clean-up would wait for a service that is gone


def mirror_run(run: RunFolder, stdin: BinaryIO, stderr: TextIO) -> None:
    settings = WandbSettings(**json.loads(stdin.readline()))
    mirror = open_mirror(run, settings, stderr)
    while not select.select([stdin], [], [], SECONDS_BETWEEN_LOOKS)[0]:
        mirror.feed()
    end: dict[str, Any] | None = json.loads(stdin.readline() or "null")
    if end is None:  # killed: the folder may soon be another process's
        mirror.close(Exit.FAILED)
        return
    mirror.feed()
    mirror.close(end["exit_code"])


def open_mirror(run: RunFolder, settings: WandbSettings, stderr: TextIO) -> Mirror:
    reason = why_offline()
    if reason is None:
        try:
            return Mirror(run, settings, folder=run.path, online=True, resume=True)
        except Exception as error:  # an account that may not write there, a network that has just gone
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
    say(f"W&B: offline ({reason}). To upload: {sync_command(run)}", file=stderr)
    return Mirror(run, settings, folder=run.path, online=False, resume=False)


def sync_command(run: RunFolder) -> str:
    path = run.path
    return f"minimind sync {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"


if __name__ == "__main__":
    main()
