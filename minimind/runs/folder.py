"""The run folder: what it holds, and what state the run is in."""

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.utils.errors import UserError
from minimind.utils.files import read_object, write_json

COMPLETE = "COMPLETE"
RUNNING, FINISHED, PREEMPTED, FAILED = "running", "finished", "preempted", "failed"
_status_lock = threading.Lock()  # checkpoints are written, and noted, beside the training


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The way back: the step a checkpoint folder is named for."""
    return int(checkpoint.name.removeprefix("step_"))


@dataclass(frozen=True)
class RunFolder:
    path: Path

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
        with _status_lock:
            write_json(self.path / "status.json", {**self.status, **changes, "updated": time.time()})

    def all_checkpoints(self) -> list[Path]:
        """Oldest first, finished or not."""
        return sorted(self.checkpoints.glob("step_*"))

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


def checkpoint_of(path: Path) -> Path:
    """The checkpoint meant by a run folder (its best, else its newest) or by a checkpoint folder.

    Raises:
        UserError: it is neither.
    """
    if (path / COMPLETE).is_file():
        return path
    run = RunFolder(path)
    complete = run.complete_checkpoints()
    if not complete:
        raise UserError(
            f"A run folder or a checkpoint must be given, but {path} is neither (no checkpoint with a "
            f"{COMPLETE} marker in it); name runs/<run> or runs/<run>/checkpoints/<step>."
        )
    best = run.status.get("best_checkpoint")
    return next((folder for folder in complete if folder.name == best), complete[-1])
