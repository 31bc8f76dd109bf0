"""The run folder: what it holds, what state the run is in, and whether it is still where it was."""

import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimind.utils.errors import RunFailed
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


@dataclass
class RunFolder:
    path: Path
    claimed: tuple[int, int] | None = field(default=None, compare=False)  # which folder this process works in

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
    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_object(path) if path.is_file() else {}

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

    def move_aside(self) -> Path:
        """Renames the folder to <name>.old-<n>; nothing is ever deleted."""
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        return self.path.rename(target)
