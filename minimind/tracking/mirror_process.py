"""The process that copies a run folder to W&B during training: nothing it does can stop or slow down the run.

`WandbMirror` starts it with the run folder, sends the settings as a line of JSON on standard input and a second line
when the run ends. If the run is killed, the input ends without the second line.
"""

import json
import os
import select
import sys
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from minimind.runs.folder import RunFolder
from minimind.runs.states import Exit
from minimind.tracking.config import WandbSettings
from minimind.tracking.mirror import Mirror, why_offline
from minimind.utils.child import leave_signals_to_parent
from minimind.utils.terminal import say

EXIT_REPORTED = 3  # exit code after an error that this process has reported itself
POLL_INTERVAL_S = 1.0


def main() -> None:
    leave_signals_to_parent()
    os.environ.pop("WANDB_SERVICE", None)  # the service of the process that started the run: it may end first
    stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # users can do nothing about what W&B prints
    run = RunFolder(Path(sys.argv[1]))
    try:
        with open(0, "rb", buffering=0) as stdin:
            mirror_run(run, stdin, stderr)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        say(stopped_message(run, reason), file=stderr)
        os._exit(EXIT_REPORTED)  # W&B's own cleanup would wait for a service that is gone


def mirror_run(run: RunFolder, stdin: BinaryIO, stderr: TextIO) -> None:
    settings = WandbSettings(**json.loads(stdin.readline()))
    mirror = open_mirror(run, settings, stderr)
    while not select.select([stdin], [], [], POLL_INTERVAL_S)[0]:
        mirror.feed()
    end: dict[str, Any] | None = json.loads(stdin.readline() or "null")
    if end is None:  # the run was killed, and another process may soon be writing to the folder
        mirror.close(Exit.FAILED)
        return
    mirror.feed()
    mirror.close(end["exit_code"])


def open_mirror(run: RunFolder, settings: WandbSettings, stderr: TextIO) -> Mirror:
    reason = why_offline()
    if reason is None:
        try:
            return Mirror(run, settings, folder=run.path, online=True, resume=True)
        except Exception as error:  # such as an account without write access, or a network that has just gone down
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
    say(f"W&B: offline ({reason}). To upload: {sync_command(run)}", file=stderr)
    return Mirror(run, settings, folder=run.path, online=False, resume=False)


def stopped_message(run: RunFolder, reason: str) -> str:
    return f"W&B: the mirror has stopped ({reason}); training continues. To upload later: {sync_command(run)}"


def sync_command(run: RunFolder) -> str:
    path = run.path
    return f"minimind sync {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"


if __name__ == "__main__":
    main()
