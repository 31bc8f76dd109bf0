"""The run folder: what it holds, what state the run is in, and whether it is still where it was."""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimind.utils.errors import DamagedFile, RunFailed, UserError
from minimind.utils.files import file_identity, read_object, write_json

COMPLETE = "COMPLETE"
CHECKPOINT_NAME = re.compile(r"step_\d{8,}")
_status_lock = threading.Lock()  # checkpoints are written, and noted, beside the training


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The way back: the step a checkpoint folder is named for."""
    return int(checkpoint.name.removeprefix("step_"))


class FolderGone(RunFailed):
    """The folder of a run that goes on was renamed, deleted or replaced: nothing may be written in its place."""


# What is acted upon of a status.json, and of what `auto` meant in it.
STATUS = {"state": str, "step": int, "tokens": int, "auto": dict}
OF_AUTO = {"accelerator": str, "precision": str, "num_threads": int, "micro_batch": int}


@dataclass
class RunFolder:
    path: Path
    claimed: tuple[int, int] | None = field(default=None, compare=False)  # which folder this process works in
    replaces: "RunFolder | None" = field(default=None, compare=False)  # the old run, until this one has its name
    unlock: Callable[[], None] = field(default=lambda: None, compare=False)  # if this very process holds its lock

    def claim(self) -> None:
        """From here on the run works in the folder that is there now, and in no other of that name."""
        self.claimed = file_identity(self.path)

    @property
    def in_place(self) -> bool:
        return self.claimed is None or file_identity(self.path) == self.claimed

    def require_in_place(self) -> None:
        """Raises: FolderGone."""
        if not self.in_place:
            raise FolderGone(
                f"{self.path} must stay where it is while the run goes on, but was renamed, deleted or replaced; "
                "the run has stopped and written nothing in its place. Put the folder back and run the same command "
                "to go on from its last checkpoint."
            )

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def histograms(self) -> Path:
        return self.path / "histograms.jsonl"

    @property
    def loss_plot(self) -> Path:
        return self.path / "loss.png"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def lock(self) -> Path:
        return self.path / "lock.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def staging(self) -> Path:
        """Where a run that is to replace this one is prepared."""
        return self.path.with_name(f".{self.path.name}.new")

    @property
    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_object(path) if path.is_file() else {}

    def check_status(self) -> None:
        """For who acts upon it; a run that has not started has none.

        Raises:
            DamagedFile: it does not say what a run writes.
        """
        status = {"auto": {}, **self.status}  # one that was imported has resolved nothing
        if len(status) == 1:
            return
        auto = status["auto"] if isinstance(status["auto"], dict) else {}
        known = [(name, kind, status.get(name)) for name, kind in STATUS.items()]
        known += [(name, kind, auto[name]) for name, kind in OF_AUTO.items() if name in auto]
        for name, kind, value in known:
            if type(value) is kind:
                continue
            raise DamagedFile(
                f"{self.path / 'status.json'} must say how the run stands, but its `{name}` is {value!r}; put a whole "
                "copy in its place, or start again with run.fresh=true (this folder is kept)."
            )

    def update_status(self, **changes: Any) -> None:
        """Raises: FolderGone."""
        self.require_in_place()
        with _status_lock:
            write_json(self.path / "status.json", {**self.status, **changes, "updated": time.time()})

    def all_checkpoints(self) -> list[Path]:
        """Oldest first, finished or not; a copy such as step_00000010.bak is none."""
        return sorted(path for path in self.checkpoints.glob("step_*") if CHECKPOINT_NAME.fullmatch(path.name))

    def complete_checkpoints(self) -> list[Path]:
        """Oldest first; a folder without its marker was never finished and does not count."""
        return [folder for folder in self.all_checkpoints() if (folder / COMPLETE).is_file()]

    def remove_leftovers(self) -> None:
        """What a killed process was writing; only for who holds the lock."""
        for leftover in (*self.checkpoints.glob(".step_*.tmp"), *self.path.glob(".*.tmp")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def begin_beside(self, unlock: Callable[[], None]) -> None:
        """The run works in a new folder from here on, and the old one keeps its name until `take_place`.

        Only for who holds the lock of the old one: a new folder that is there already was left by a killed process.
        """
        self.replaces = RunFolder(self.path, file_identity(self.path), unlock=unlock)
        self.path = self.staging
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)

    def take_place(self) -> Path:
        """Renames the old folder to <name>.old-<n>, as nothing is ever deleted, and the new one to <name>.

        Returns:
            Where the old one is now.

        Raises:
            FolderGone: it was there no more.
            UserError: another process took the name in the moment between.
        """
        assert self.replaces is not None
        self.replaces.require_in_place()
        name, number = self.replaces.path, 1
        while os.path.lexists(old := name.with_name(f"{name.name}.old-{number}")):
            number += 1
        name.rename(old)
        try:
            self.path.rename(name)
        except OSError as error:
            raise UserError(f"{name} must be free once the old folder is {old.name}, but: {error}.") from None
        self.replaces.unlock()
        self.follow()
        return old

    def follow(self) -> None:
        """Takes note that the new folder has the name of the old one, for each process once one has renamed it."""
        if self.replaces is not None and self.claimed in (None, file_identity(self.replaces.path)):
            self.path, self.replaces = self.replaces.path, None

    def hand_over(self) -> dict[str, Any]:
        """What another process of the tree must know, in plain types, to work in this folder and no other."""
        return {"claimed": self.claimed, "replaces": None if self.replaces is None else self.replaces.claimed}

    def take_over(self, handed: dict[str, Any]) -> None:
        """What `hand_over` gave; `claimed` may be None on another machine, which numbers its file systems itself."""
        if handed["replaces"] is not None:
            self.replaces = RunFolder(self.path, tuple(handed["replaces"]))
            self.path = self.staging
        self.claimed = handed["claimed"] and tuple(handed["claimed"])
