"""What a step frees, the next one gets without asking the system for pages."""

import subprocess
import sys

import pytest

# Page faults of the last of a few rounds, each of which takes two large tensors and frees them; without huge pages.
ROUNDS = """
import ctypes, resource, sys, torch
from minimind.utils.hardware import keep_freed_memory
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**23) for _ in range(2)]
    del tensors
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults_of_a_round(how: str) -> int:
    child = subprocess.run([sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True)
    return int(child.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="Only glibc has the setting")
def test_kept_memory_is_not_asked_for_again() -> None:
    assert faults_of_a_round("keep") < faults_of_a_round("as it comes") / 4
