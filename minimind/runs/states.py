"""States of runs and sweep jobs, and exit codes; docs/runs.md has the same names."""

from enum import IntEnum, StrEnum


class RunState(StrEnum):
    """State of a run. Only the first four are stored in status.json."""

    RUNNING = "running"
    FINISHED = "finished"
    PREEMPTED = "preempted"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # stored as running, but no process holds its lock
    NOT_STARTED = "not started"


class Exit(IntEnum):
    """Exit code of train.py, evaluate.py and minimind."""

    FINISHED = 0
    FAILED = 1
    BAD_INPUT = 2
    PREEMPTED = 75  # EX_TEMPFAIL


class JobState(StrEnum):
    """State of a job in a sweep's queue."""

    QUEUED = "queued"
    WAITING = "waiting"  # for another process that is training the same run
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @classmethod
    def after(cls, returncode: int) -> "JobState":
        """State of a job whose process has exited with `returncode`, negative if killed by a signal."""
        if returncode == Exit.PREEMPTED:
            return cls.STOPPED
        return cls.FINISHED if returncode == Exit.FINISHED else cls.FAILED
