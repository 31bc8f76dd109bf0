"""A queue of jobs, each a process tree of its own, so many at a time; one failure ends one job."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from minimind.config.plan import Plan
from minimind.runs.lock import is_held
from minimind.runs.stop import EX_TEMPFAIL, SIGNALS
from minimind.sweep.slots import Slot

QUEUED, WAITING, RUNNING, FINISHED, STOPPED, FAILED = "queued", "waiting", "running", "finished", "stopped", "failed"
GLANCE_S = 0.2  # between two looks at the processes
LOOK_AT_LOCK_S = 5.0  # between two looks at a run that someone else works on
PARENT = "MINIMIND_SWEEP_PID"  # in a job's environment: when this process has gone, the job stops


@dataclass
class Job:
    label: tuple[str, ...]  # what tells it from the others, for the table
    plan: Plan
    frozen: str
    log: Path
    state: str = QUEUED
    code: int | None = None
    slots: list[Slot] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    seen_held: float = -LOOK_AT_LOCK_S

    @property
    def num_slots(self) -> int:
        return self.plan.cfg.trainer.devices if self.plan.cfg.trainer.accelerator != "cpu" else 1


class Queue:
    """Args:
    command: what starts a job, followed by the file of its settings.
    on_change: called whenever a job's state has changed.
    """

    def __init__(
        self, jobs: Sequence[Job], slots: Sequence[Slot], command: list[str], on_change: Callable[[Job], None]
    ) -> None:
        self.jobs, self.command, self.on_change = list(jobs), command, on_change
        self.free = list(slots)
        self.num_slots = len(slots)
        self.stopping = False

    def run(self, on_glance: Callable[[], None]) -> None:
        """Returns when every job has ended, or none is running and we were asked to stop."""
        listening = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._stop) for number in SIGNALS} if listening else {}
        try:
            with tempfile.TemporaryDirectory() as folder:
                while self._step(Path(folder)):
                    on_glance()
                    time.sleep(GLANCE_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _step(self, folder: Path) -> bool:
        """Takes in who has ended, starts who fits; whether anything is left to wait for."""
        for job in self.jobs:
            if job.process is not None and job.state == RUNNING and (code := job.process.poll()) is not None:
                self.free += job.slots
                job.slots = []
                self._set(job, {0: FINISHED, EX_TEMPFAIL: STOPPED}.get(code, FAILED), code)
        waiting = [job for job in self.jobs if job.state in (QUEUED, WAITING)]
        for job in waiting:
            if self.stopping:
                self._set(job, STOPPED, EX_TEMPFAIL)
            elif min(job.num_slots, self.num_slots) <= len(self.free) and not self._held_elsewhere(job):
                self._start(job, folder)
        return any(job.state in (QUEUED, WAITING, RUNNING) for job in self.jobs)

    def _held_elsewhere(self, job: Job) -> bool:
        """Another process, perhaps another sweep's, works on the same run: its result will be ours too."""
        if time.monotonic() - job.seen_held < LOOK_AT_LOCK_S:
            return True
        if not is_held(job.plan.folder.lock):
            return False
        job.seen_held = time.monotonic()
        if job.state != WAITING:
            self._set(job, WAITING, None)
        return True

    def _start(self, job: Job, folder: Path) -> None:
        count = min(job.num_slots, self.num_slots)
        job.slots, self.free = self.free[:count], self.free[count:]
        settings = folder / f"{self.jobs.index(job)}.yaml"
        settings.write_text(job.frozen, encoding="utf-8")
        environment = {**os.environ, PARENT: str(os.getpid())}
        gpus = [slot.gpu for slot in job.slots if slot.gpu is not None]
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            job.process = subprocess.Popen(
                [*self.command, str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment,
            )  # fmt: skip
        cores = frozenset[int]().union(*(slot.cores for slot in job.slots))
        if cores:
            os.sched_setaffinity(job.process.pid, cores)  # long before it counts them
        self._set(job, RUNNING, None)

    def _set(self, job: Job, state: str, code: int | None) -> None:
        job.state, job.code = state, code
        self.on_change(job)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Each running job gets the same signal, saves, and ends by itself; a second one ends it at once."""
        self.stopping = True
        for job in self.jobs:
            if job.state == RUNNING and job.process is not None:
                job.process.send_signal(number)
