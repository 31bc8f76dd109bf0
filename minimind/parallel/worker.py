"""One rank of a tree that `launch` started: what it leaves for the parent, and how it notices that it is alone."""

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from minimind.runs.states import Exit
from minimind.utils.child import end_with_parent, when
from minimind.utils.files import read_json, write_json
from minimind.utils.ranks import global_rank, is_main_process

GRACE_S = 3.0  # for a rank to say itself what it died of when a peer is gone
CONFIG, STARTED = "config.yaml", "started.json"


class TreeFolder:
    """Where parent and ranks leave word for each other while the tree stands."""

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
        """When the run was started, as of `time.time`."""
        return read_json(self.path / STARTED)["since"]

    @property
    def run(self) -> dict[str, Any]:
        """Which run folder it is, as `RunFolder.take_over` wants it."""
        return read_json(self.path / STARTED)["run"]

    @property
    def store(self) -> Path:
        """Where the ranks meet; nobody but this user may open the folder."""
        return self.path / "store"

    def presence(self, rank: int) -> Path:
        return self.path / f"rank{rank}.pid"

    def failure(self, rank: int) -> Path:
        return self.path / f"rank{rank}.failure.json"

    def log(self, rank: int) -> Path:
        """What a rank other than the first says; the terminal is the first's."""
        return self.path / f"rank{rank}.log"

    def failures(self) -> list[dict[str, Any]]:
        return [read_json(path) for path in self.path.glob("rank*.failure.json")]

    def peer_has_died(self) -> bool:
        """A rank that ends well takes its presence away before. A tree that was swept away has none alive."""
        if not self.path.is_dir():
            return True
        for path in self.path.glob("rank*.pid"):
            with contextlib.suppress(FileNotFoundError):  # it left just now
                if not _alive(int(path.read_text() or 0)):
                    return True
        return False


class RankProcess:
    """Takes its place in the tree, and from then on watches parent and peers."""

    def __init__(self, folder: TreeFolder) -> None:
        self.folder = folder
        if not is_main_process():
            with folder.log(global_rank()).open("w") as log:
                os.dup2(log.fileno(), sys.stdout.fileno())
                os.dup2(log.fileno(), sys.stderr.fileno())
        folder.presence(global_rank()).write_text(str(os.getpid()))
        end_with_parent(signal.SIGKILL)
        when(folder.peer_has_died, self._follow)

    def _follow(self) -> None:
        time.sleep(GRACE_S)
        os._exit(Exit.FAILED)

    def depart(self, code: int) -> NoReturn:
        """A good end, and at once: a library's thread that lives until Python unloads it may abort the process."""
        self.folder.presence(global_rank()).unlink(missing_ok=True)
        _exit(code)

    def fail(self, error: BaseException, code: int, text: str | None = None) -> NoReturn:
        """Leaves word of it and ends, without a farewell to peers that may be stuck."""
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
