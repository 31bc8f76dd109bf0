"""Saves checkpoints in the background, one at a time, and deletes old ones."""

import os
import shutil
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from minimind.runs.checkpoints import CONFIG, MODEL, TOKENIZER
from minimind.runs.folder import COMPLETE, RunFolder, checkpoint_name, step_of
from minimind.training.checkpoint import NonFiniteWeights, write_checkpoint
from minimind.training.config import TrainerConfig
from minimind.training.host_copy import HostCopy
from minimind.training.model_file import model_file
from minimind.utils.errors import RunFailed
from minimind.utils.terminal import say

NICENESS = 10  # added to the writing thread's, so that training keeps its cores


class Saver:
    """Saves the state of a run on a background thread.

    Training waits only for the copy to host memory; the thread hashes, writes, syncs and deletes. There is one copy, so
    starting a save while another is in progress waits for that one.
    """

    def __init__(self, run: RunFolder, cfg: TrainerConfig) -> None:
        self.run = run
        self.cfg = cfg
        self.host_copy = HostCopy()
        self.pool = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_priority)
        self.in_progress: Future[None] | None = None
        self.step = -1  # of the save in progress, else of the last one
        self.first_step = -1  # at which this process started

    @cached_property
    def metadata(self) -> dict[str, bytes]:
        """Read once, so that checkpoints describe what is trained even if the run's own files are edited later."""
        files = {name: (self.run.path / name).read_bytes() for name in (CONFIG, TOKENIZER)}
        return {**files, MODEL: model_file(self.run.path / CONFIG)}

    @property
    def busy(self) -> bool:
        return self.in_progress is not None and not self.in_progress.done()

    def start(self, step: int, state: dict[str, Any], *, is_best: bool, tokens: int) -> None:
        """Copy the state and return.

        Raises:
            FolderGone: the run folder was renamed, deleted or replaced.
        """
        self.report()
        self.run.require_in_place()
        copy = self.host_copy.take(state)
        self.step = step
        self.in_progress = self.pool.submit(self._write, step, copy, is_best, tokens)

    def report(self) -> bool:
        """Wait for a save in progress and return whether it succeeded; print a warning if not."""
        if self.in_progress is None:
            return True
        save, self.in_progress = self.in_progress, None
        error = save.exception()
        if error is None:
            return True
        if not isinstance(error, (OSError, NonFiniteWeights)):
            raise error
        self.problem = (
            f"{checkpoint_name(self.step)} could not be saved ({error}); the last good one is {self.last_good()}"
        )
        self.step = -1
        say(
            f"\nWarning: {self.problem}. Training continues; the next save is attempted when it is due.",
            file=sys.stderr,
        )
        return False

    def finish(self, failure: str) -> None:
        """Wait until the last save is on the disk.

        Args:
            failure: the first words of the error if it could not be saved.

        Raises:
            RunFailed: it could not be saved.
        """
        if not self.report():
            raise RunFailed(f"{failure}: {self.problem}. Free up disk space and run the same command again.")

    def last_good(self) -> str:
        return next((folder.name for folder in reversed(self.run.complete_checkpoints())), "none")

    def _write(self, step: int, state: dict[str, Any], is_best: bool, tokens: int) -> None:
        folder = write_checkpoint(self.run, step, state, self.metadata)
        self.run.update_status(step=step, tokens=tokens, **({"best_checkpoint": folder.name} if is_best else {}))
        best = self.run.status.get("best_checkpoint")
        folders = {step_of(path): path for path in self.run.complete_checkpoints()}
        for old in superseded(
            folders, newest=step, keep=self.cfg.keep_checkpoints, keep_every=self.cfg.keep_every_steps,
            best=None if best is None else step_of(Path(best)),
        ):  # fmt: skip
            remove(folders[old])
        for incomplete in self.run.all_checkpoints():  # of steps that this process repeated but did not save
            if self.first_step < step_of(incomplete) < step and not (incomplete / COMPLETE).is_file():
                remove(incomplete)


def superseded(
    steps: Iterable[int], *, newest: int, keep: int, keep_every: int | None = None, best: int | None = None
) -> list[int]:
    """Steps whose checkpoints are no longer needed once that of step `newest` is saved.

    Later checkpoints are kept: they were unreadable when the run was resumed, and will be replaced.
    """
    usable = sorted(step for step in steps if step <= newest)
    return [step for step in usable[:-keep] if step != best and not (keep_every and step % keep_every == 0)]


def remove(checkpoint: Path) -> None:
    """Rename, then delete, so that a killed process leaves no partial checkpoint; the next start deletes the rest."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old.tmp")))


def _lower_priority() -> None:
    """Lower the priority of this thread only; only Linux has one per thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + NICENESS)
