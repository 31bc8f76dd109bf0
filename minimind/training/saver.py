"""Checkpoints written beside the training, one at a time."""

import os
import shutil
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from minimind.runs.checkpoints import CONFIG, MODEL, TOKENIZER
from minimind.runs.folder import COMPLETE, RunFolder, checkpoint_name, step_of
from minimind.training.checkpoint import NotFinite, write_checkpoint
from minimind.training.config import TrainerConfig
from minimind.training.host_copy import HostCopy
from minimind.training.model_file import model_file
from minimind.training.retention import superseded
from minimind.utils.errors import RunFailed
from minimind.utils.terminal import say

LOWER_PRIORITY = 10  # of the writing thread, so that training keeps its cores


class Saver:
    """The training thread waits for a copy to memory; hashing, writing, syncing and deleting happen beside it.

    There is one copy, so one save is under way at most: whoever asks for another waits for the first to end.
    """

    def __init__(self, run: RunFolder, cfg: TrainerConfig) -> None:
        self.run = run
        self.cfg = cfg
        self.memory = HostCopy()
        self.pool = ThreadPoolExecutor(1, "checkpoint", initializer=_step_back)
        self.under_way: Future[None] | None = None
        self.step = -1  # of the save under way, or else of the last
        self.first_step = -1  # from which this process goes on

    @cached_property
    def record(self) -> dict[str, bytes]:
        """Read once: an edit of the run's own copy while it trains must not pass for what it was trained with."""
        files = {name: (self.run.path / name).read_bytes() for name in (CONFIG, TOKENIZER)}
        return {**files, MODEL: model_file(self.run.path / CONFIG)}

    @property
    def busy(self) -> bool:
        return self.under_way is not None and not self.under_way.done()

    def start(self, step: int, state: dict[str, Any], *, is_best: bool, tokens: int) -> None:
        """Copies the state, and returns.

        Raises:
            FolderGone: there is no place to write it to.
        """
        self.report()
        self.run.require_in_place()
        copy = self.memory.take(state)
        self.step = step
        self.under_way = self.pool.submit(self._write, step, copy, is_best, tokens)

    def report(self) -> bool:
        """Waits for a save under way; says on standard error if it failed, once. Returns whether all is well."""
        if self.under_way is None:
            return True
        under_way, self.under_way = self.under_way, None
        problem = under_way.exception()
        if problem is None:
            return True
        if not isinstance(problem, (OSError, NotFinite)):
            raise problem
        self.problem = (
            f"{checkpoint_name(self.step)} could not be saved ({problem}); the last good one is {self.last_good()}"
        )
        self.step = -1
        say(
            f"\nWarning: {self.problem}. Training goes on; the next is tried when it is due.",
            file=sys.stderr,
        )
        return False

    def finish(self, why: str) -> None:
        """Waits until the last save is on the disk.

        Raises:
            RunFailed: it is not.
        """
        if not self.report():
            raise RunFailed(f"{why}: {self.problem}. Make room, and run the same command again.")

    def last_good(self) -> str:
        return next((folder.name for folder in reversed(self.run.complete_checkpoints())), "none")

    def _write(self, step: int, state: dict[str, Any], is_best: bool, tokens: int) -> None:
        folder = write_checkpoint(self.run, step, state, self.record)
        self.run.update_status(step=step, tokens=tokens, **({"best_checkpoint": folder.name} if is_best else {}))
        best = self.run.status.get("best_checkpoint")
        folders = {step_of(path): path for path in self.run.complete_checkpoints()}
        for old in superseded(
            folders, newest=step, keep=self.cfg.keep_checkpoints, keep_every=self.cfg.keep_every_steps,
            best=None if best is None else step_of(Path(best)),
        ):  # fmt: skip
            remove(folders[old])
        for torn in self.run.all_checkpoints():  # that this process has come past, and left out as the disk was busy
            if self.first_step < step_of(torn) < step and not (torn / COMPLETE).is_file():
                remove(torn)


def remove(checkpoint: Path) -> None:
    """Under another name first, which the next start removes: killed on the way, nothing looks like a checkpoint."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old.tmp")))


def _step_back() -> None:
    """Lowers the priority of this thread alone; only Linux has one for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + LOWER_PRIORITY)
