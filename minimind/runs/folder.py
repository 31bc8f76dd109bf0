"""The run folder: its files, the run's status, and checks that it has not been moved."""

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
_status_lock = threading.Lock()  # the checkpoint writer's thread updates the status too


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(checkpoint.name.removeprefix("step_"))


class FolderGone(RunFailed):
    """The folder of an active run was renamed, deleted or replaced; nothing may be written at its path."""


# The fields of status.json that are used later, and those of its `auto`.
STATUS = {"state": str, "step": int, "tokens": int, "auto": dict}
AUTO = {"accelerator": str, "precision": str, "num_threads": int, "micro_batch": int}


@dataclass
class RunFolder:
    path: Path
    claimed: tuple[int, int] | None = field(default=None, compare=False)  # this process's folder: device and inode
    replaces: "RunFolder | None" = field(default=None, compare=False)  # the old run, until this takes its name
    unlock: Callable[[], None] = field(default=lambda: None, compare=False)  # if this process holds the lock

    def claim(self) -> None:
        """From now on work only in the folder that is at this path now, not in another of the same name."""
        self.claimed = file_identity(self.path)

    @property
    def in_place(self) -> bool:
        return self.claimed is None or file_identity(self.path) == self.claimed

    def require_in_place(self) -> None:
        """Raises: FolderGone."""
        if not self.in_place:
            raise FolderGone(
                f"{self.path} must stay in place during the run, but was renamed, deleted or replaced; the run has "
                "stopped and written nothing in its place. Put the folder back and run the same command to resume "
                "from its last checkpoint."
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
        """Where a run that will replace this one is prepared."""
        return self.path.with_name(f".{self.path.name}.new")

    @property
    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_object(path) if path.is_file() else {}

    def check_status(self) -> None:
        """Validate the fields that are used later; a run that has not started has none.

        Raises:
            DamagedFile: a field is missing or has the wrong type.
        """
        status = {"auto": {}, **self.status}  # an imported run has resolved no `auto`
        if len(status) == 1:
            return
        auto = status["auto"] if isinstance(status["auto"], dict) else {}
        known = [(name, kind, status.get(name)) for name, kind in STATUS.items()]
        known += [(name, kind, auto[name]) for name, kind in AUTO.items() if name in auto]
        for name, kind, value in known:
            if type(value) is kind:
                continue
            raise DamagedFile(
                f"{self.path / 'status.json'} must hold a valid run status, but its `{name}` is {value!r}; replace "
                "it with a good copy, or start over with run.fresh=true (this folder is kept)."
            )

    def update_status(self, **changes: Any) -> None:
        """Raises: FolderGone."""
        with _status_lock:
            self.require_in_place()  # only now: another thread may have held the lock for long
            write_json(self.path / "status.json", {**self.status, **changes, "updated": time.time()})

    def all_checkpoints(self) -> list[Path]:
        """Oldest first, complete or not; copies such as step_00000010.bak are ignored."""
        return sorted(path for path in self.checkpoints.glob("step_*") if CHECKPOINT_NAME.fullmatch(path.name))

    def complete_checkpoints(self) -> list[Path]:
        """Oldest first; a folder without its marker is incomplete and left out."""
        return [folder for folder in self.all_checkpoints() if (folder / COMPLETE).is_file()]

    def remove_leftovers(self) -> None:
        """Remove temporary files of a killed process; requires the lock."""
        for leftover in (*self.checkpoints.glob(".step_*.tmp"), *self.path.glob(".*.tmp")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def stage_replacement(self, unlock: Callable[[], None]) -> None:
        """Continue in a new staging folder; the old one keeps its name until `replace_old`.

        Requires the lock of the old folder: an existing staging folder was left by a killed process and is deleted.
        """
        self.replaces = RunFolder(self.path, file_identity(self.path), unlock=unlock)
        self.path = self.staging
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)

    def replace_old(self) -> Path:
        """Rename the old folder to <name>.old-<n>, as runs are never deleted, and the new one to <name>.

        Returns:
            The old folder's new path.

        Raises:
            FolderGone: the old folder is gone.
            UserError: another process took the name between the two renames.
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
        self.update_path()
        return old

    def update_path(self) -> None:
        """Update `path` once a process has given the new folder its final name."""
        if self.replaces is not None and self.claimed in (None, file_identity(self.replaces.path)):
            self.path, self.replaces = self.replaces.path, None

    def hand_over(self) -> dict[str, Any]:
        """Plain-typed state with which another process of the run works in this same folder; see `take_over`."""
        return {"claimed": self.claimed, "replaces": None if self.replaces is None else self.replaces.claimed}

    def take_over(self, handed: dict[str, Any]) -> None:
        """Apply the result of `hand_over`; `claimed` is None on another machine, where device numbers differ."""
        if handed["replaces"] is not None:
            self.replaces = RunFolder(self.path, tuple(handed["replaces"]))
            self.path = self.staging
        self.claimed = handed["claimed"] and tuple(handed["claimed"])
