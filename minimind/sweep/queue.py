"""A queue of jobs, each a process tree of its own, so many at a time; one failure ends one job."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimind.config.auto import asked_by, hand_down
from minimind.config.plan import Plan
from minimind.runs.lock import is_held
from minimind.runs.states import Exit, JobState
from minimind.sweep.slots import Slot, Slots
from minimind.utils.child import SIGNALS, Children, environment, signals_to

GLANCE_S = 0.2  # between two looks at the processes
LOOK_AT_LOCK_S = 5.0  # between two looks at a run that someone else works on


@dataclass
class Job:
    label: tuple[str, ...]  # what tells it from the others, for the table
    plan: Plan
    frozen: str
    log: Path
    auto: Mapping[str, Any] = field(default_factory=dict)  # what that means; none: the job finds out for itself
    state: JobState = JobState.QUEUED
    code: int | None = None
    place: Slot | None = None
    process: subprocess.Popen[bytes] | None = None
    seen_held: float = -LOOK_AT_LOCK_S

    @property
    def num_gpus(self) -> int:
        return self.plan.cfg.trainer.devices


class Queue:
    """Args:
    command: what starts a job, followed by the file of its settings.
    on_change: called whenever a job's state has changed.
    """

    def __init__(
        self, jobs: Sequence[Job], places: Slots, command: list[str], on_change: Callable[[Job], None]
    ) -> None:
        self.jobs, self.places, self.command, self.on_change = list(jobs), places, command, on_change
        self.processes = Children()  # once asked to stop, no further one is started

    def run(self, on_glance: Callable[[], None]) -> None:
        """Returns when every job has ended, or none is running and we were asked to stop.

        Each running job gets the same signal, saves, and ends by itself; a second one ends it at once.
        """
        with signals_to(self.processes.pass_on), tempfile.TemporaryDirectory() as folder:
            while self._step(Path(folder)):
                on_glance()
                time.sleep(GLANCE_S)

    def _step(self, folder: Path) -> bool:
        """Takes in who has ended, starts who fits; whether anything is left to wait for."""
        for job in self.jobs:
            if job.process is not None and job.state == JobState.RUNNING and (code := job.process.poll()) is not None:
                assert job.place is not None
                self.places.give_back(job.place)
                job.place = None
                self._ended(job, code)
        for job in [job for job in self.jobs if job.state in (JobState.QUEUED, JobState.WAITING)]:
            if self.processes.received:
                self._set(job, JobState.STOPPED, Exit.PREEMPTED)
            elif not self._held_elsewhere(job) and (place := self.places.take(job.num_gpus)):
                self._start(job, place, folder)
        return any(job.state in (JobState.QUEUED, JobState.WAITING, JobState.RUNNING) for job in self.jobs)

    def _ended(self, job: Job, code: int) -> None:
        if code == Exit.BAD_INPUT and is_held(job.plan.folder.lock):  # another sweep's job came first by a moment
            self._set(job, JobState.WAITING, None)
        elif self.processes.received and code in [-number for number in SIGNALS]:  # before it could listen
            self._set(job, JobState.STOPPED, Exit.PREEMPTED)
        else:
            self._set(job, JobState.after(code), code)

    def _held_elsewhere(self, job: Job) -> bool:
        """Another process, perhaps another sweep's, works on the same run: its result will be ours too."""
        if time.monotonic() - job.seen_held < LOOK_AT_LOCK_S:
            return True
        if not is_held(job.plan.folder.lock):
            return False
        job.seen_held = time.monotonic()
        if job.state != JobState.WAITING:
            self._set(job, JobState.WAITING, None)
        return True

    def _start(self, job: Job, place: Slot, folder: Path) -> None:
        settings = folder / f"{self.jobs.index(job)}.yaml"
        settings.write_text(job.frozen, encoding="utf-8")
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus)} if place.gpus else {}
        auto = hand_down(asked_by(job.plan.cfg.trainer), job.auto)  # none, too, in place of what our environment has
        job.place, job.process = place, self.processes.start(
            [*self.command, str(settings)], stdin=subprocess.DEVNULL, log=job.log, cores=place.cores,
            env=environment(**gpus, **auto),
        )  # fmt: skip
        self._set(job, JobState.RUNNING, None)

    def _set(self, job: Job, state: JobState, code: int | None) -> None:
        job.state, job.code = state, code
        self.on_change(job)
