"""How runs, the jobs of a sweep, and our programs stand and end, by name; docs/runs.md has the same words."""

from enum import IntEnum, StrEnum


class RunState(StrEnum):
    """Of a run: one of the first four in its status.json, or what can only be seen from outside and is never stored."""

    RUNNING = "running"
    FINISHED = "finished"
    PREEMPTED = "preempted"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # it says that it is running, but nobody works on it
    NOT_STARTED = "not started"


class Exit(IntEnum):
    """The exit code of a program of ours."""

    FINISHED = 0
    FAILED = 1
    BAD_INPUT = 2
    PREEMPTED = 75  # EX_TEMPFAIL


class JobState(StrEnum):
    """Of a job in a sweep's queue, which starts a run, or waits for one that is not its own."""

    QUEUED = "queued"
    WAITING = "waiting"  # for someone else who works on the same run
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @classmethod
    def after(cls, returncode: int) -> "JobState":
        """What a job is when its process has ended with this, which is negative where a signal ended it."""
        if returncode == Exit.PREEMPTED:
            return cls.STOPPED
        return cls.FINISHED if returncode == Exit.FINISHED else cls.FAILED
