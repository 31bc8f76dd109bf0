"""A queue of jobs, each a process tree, as many at a time as there are slots; a failure ends only its own job."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimind.config.auto import device_request, inheritance
from minimind.config.plan import Plan
from minimind.runs.lock import is_held
from minimind.runs.states import Exit, JobState
from minimind.sweep.slots import Slot, Slots
from minimind.utils.child import SIGNALS, Children, environment, signals_to

POLL_S = 0.2  # of the job processes
LOCK_POLL_S = 5.0  # of the lock of a run that another process is working on


@dataclass
class Job:
    label: tuple[str, ...]  # identifies the job in the table
    plan: Plan
    frozen: str  # the settings, as YAML
    log: Path
    auto: Mapping[str, Any] = field(default_factory=dict)  # what `auto` means; empty: the job resolves it itself
    state: JobState = JobState.QUEUED
    code: int | None = None
    slot: Slot | None = None
    process: subprocess.Popen[bytes] | None = None
    last_seen_locked: float = -LOCK_POLL_S

    @property
    def num_gpus(self) -> int:
        return self.plan.cfg.trainer.devices


class Queue:
    """Args:
    command: starts a job when the path of its settings file is appended.
    on_change: called whenever a job's state has changed.
    """

    def __init__(self, jobs: Sequence[Job], slots: Slots, command: list[str], on_change: Callable[[Job], None]) -> None:
        self.jobs, self.slots, self.command, self.on_change = list(jobs), slots, command, on_change
        self.processes = Children()

    def run(self, on_poll: Callable[[], None]) -> None:
        """Returns when every job has ended or, after a signal to stop, when no job is running.

        The signal is passed on to each running job, which saves and exits; a second one ends it at once.
        """
        with signals_to(self.processes.pass_on), tempfile.TemporaryDirectory() as folder:
            while self._step(Path(folder)):
                on_poll()
                time.sleep(POLL_S)

    def _step(self, folder: Path) -> bool:
        """Collects ended jobs and starts those for which a slot is free; returns whether any job is left."""
        for job in self.jobs:
            if job.process is not None and job.state == JobState.RUNNING and (code := job.process.poll()) is not None:
                assert job.slot is not None
                self.slots.release(job.slot)
                job.slot = None
                self._ended(job, code)
        for job in [job for job in self.jobs if job.state in (JobState.QUEUED, JobState.WAITING)]:
            if self.processes.received:
                self._set(job, JobState.STOPPED, Exit.PREEMPTED)
            elif not self._locked_elsewhere(job) and (slot := self.slots.acquire(job.num_gpus)):
                self._start(job, slot, folder)
        return any(job.state in (JobState.QUEUED, JobState.WAITING, JobState.RUNNING) for job in self.jobs)

    def _ended(self, job: Job, code: int) -> None:
        if code == Exit.BAD_INPUT and is_held(job.plan.folder.lock):  # another sweep's job took the lock just before
            self._set(job, JobState.WAITING, None)
        elif self.processes.received and code in [-number for number in SIGNALS]:  # before its handler was installed
            self._set(job, JobState.STOPPED, Exit.PREEMPTED)
        else:
            self._set(job, JobState.after(code), code)

    def _locked_elsewhere(self, job: Job) -> bool:
        """Whether another process, such as another sweep's job, is working on the same run; its result serves both."""
        if time.monotonic() - job.last_seen_locked < LOCK_POLL_S:
            return True
        if not is_held(job.plan.folder.lock):
            return False
        job.last_seen_locked = time.monotonic()
        if job.state != JobState.WAITING:
            self._set(job, JobState.WAITING, None)
        return True

    def _start(self, job: Job, slot: Slot, folder: Path) -> None:
        settings = folder / f"{self.jobs.index(job)}.yaml"
        settings.write_text(job.frozen, encoding="utf-8")
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {}
        # Passed even if empty, as it replaces what this process may have inherited.
        auto = inheritance(device_request(job.plan.cfg.trainer), job.auto)
        job.slot, job.process = slot, self.processes.start(
            [*self.command, str(settings)], stdin=subprocess.DEVNULL, log=job.log, cores=slot.cores,
            env=environment(**gpus, **auto),
        )  # fmt: skip
        self._set(job, JobState.RUNNING, None)

    def _set(self, job: Job, state: JobState, code: int | None) -> None:
        job.state, job.code = state, code
        self.on_change(job)
