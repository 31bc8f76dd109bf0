"""Back into SLURM's queue."""

import os
import subprocess
import sys

from minimind.utils.terminal import say


def job_id() -> str | None:
    """As scontrol wants it: of an array its task; None outside SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Asks for this job to be started again; says so, or says why not."""
    job = job_id()
    assert job is not None, "checked before the run was started"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is None:
        say(f"SLURM job {job} goes back into the queue.", file=sys.stderr)
    else:
        say(f"SLURM job {job} could not be requeued; do it by hand: scontrol requeue {job} ({problem})",
              file=sys.stderr)  # fmt: skip
