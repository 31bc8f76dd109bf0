"""A rank started by `launch`: its files for the parent, and how it exits when the parent or a peer dies."""

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from minimind.runs.states import Exit
from minimind.utils.child import call_when, end_with_parent
from minimind.utils.files import read_json, write_json
from minimind.utils.ranks import global_rank, is_main_process

GRACE_S = 3.0  # for a rank to report its own error before it exits because a peer has died
CONFIG, STARTED = "config.yaml", "started.json"


class TreeFolder:
    """Temporary folder through which the parent and its ranks exchange files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, config_yaml: str, since: float, run: dict[str, Any] | None) -> None:
        self.config.write_text(config_yaml, encoding="utf-8")
        write_json(self.path / STARTED, {"since": since, "run": run})

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def since(self) -> float:
        """Start time of the run, from `time.time`."""
        return read_json(self.path / STARTED)["since"]

    @property
    def run(self) -> dict[str, Any]:
        """Argument for `RunFolder.take_over`."""
        return read_json(self.path / STARTED)["run"]

    @property
    def store(self) -> Path:
        """File of the ranks' key-value store; only this user can open the folder."""
        return self.path / "store"

    def pid_file(self, rank: int) -> Path:
        return self.path / f"rank{rank}.pid"

    def failure(self, rank: int) -> Path:
        return self.path / f"rank{rank}.failure.json"

    def log(self, rank: int) -> Path:
        """Output of a rank other than 0, which has the terminal."""
        return self.path / f"rank{rank}.log"

    def failures(self) -> list[dict[str, Any]]:
        return [read_json(path) for path in self.path.glob("rank*.failure.json")]

    def peer_has_died(self) -> bool:
        """Whether a rank exited without removing its PID file, or the parent has removed the folder."""
        if not self.path.is_dir():
            return True
        for path in self.path.glob("rank*.pid"):
            with contextlib.suppress(FileNotFoundError):  # it has just finished
                if not _alive(int(path.read_text() or 0)):
                    return True
        return False


class RankProcess:
    """The current process as a rank, which exits when its parent or a peer dies."""

    def __init__(self, folder: TreeFolder) -> None:
        self.folder = folder
        if not is_main_process():
            with folder.log(global_rank()).open("w") as log:
                os.dup2(log.fileno(), sys.stdout.fileno())
                os.dup2(log.fileno(), sys.stderr.fileno())
        folder.pid_file(global_rank()).write_text(str(os.getpid()))
        end_with_parent(signal.SIGKILL)
        call_when(folder.peer_has_died, self._exit_after_peer)

    def _exit_after_peer(self) -> None:
        time.sleep(GRACE_S)
        os._exit(Exit.FAILED)

    def finish(self, code: int) -> NoReturn:
        """Exit normally, skipping interpreter shutdown, in which a library's threads may abort the process."""
        self.folder.pid_file(global_rank()).unlink(missing_ok=True)
        _exit(code)

    def fail(self, error: BaseException, code: int, text: str | None = None) -> NoReturn:
        """Report the error to the parent and exit, without waiting for peers, which may hang."""
        write_json(self.folder.failure(global_rank()), {
            "rank": global_rank(), "time": time.time(), "code": code, "reason": f"{type(error).__name__}: {error}",
            "text": text if text is not None else "".join(traceback.format_exception(error)),
        })  # fmt: skip
        _exit(code)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
