"""What `auto` means, found once for all jobs of a sweep, in a process that imports torch in place of this one."""

import json
import subprocess
from collections.abc import Collection, Sequence
from typing import Any

from minimind.config.auto import asked_by
from minimind.training.config import TrainerConfig
from minimind.utils.child import python_module, start

FIND_OUT = python_module("minimind.config.auto")
Answers = dict[str, Any]


def answers_for(jobs: Sequence[TrainerConfig], cores: Collection[int]) -> list[Answers]:
    """Of each job; none where it is alone, or is to find out for itself what is wrong.

    Args:
        cores: that the job with the fewest may use, so that all have as many threads.
    """
    asked = list(dict.fromkeys(map(asked_by, jobs)))
    if len(jobs) < 2:
        return [{} for _ in jobs]
    child = start(FIND_OUT, cores=cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said, _ = child.communicate(json.dumps(asked).encode())
    found = dict(zip(asked, json.loads(said), strict=True)) if child.returncode == 0 else {}
    return [found.get(asked_by(job), {}) for job in jobs]
