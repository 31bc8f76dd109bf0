"""Memory freed in one step is reused in the next without new pages from the operating system."""

import subprocess
import sys

import pytest

# Prints the page faults of the last of a few rounds that each allocate and free two large tensors; without huge pages.
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


def page_faults(mode: str) -> int:
    child = subprocess.run([sys.executable, "-c", ROUNDS, mode], capture_output=True, text=True, check=True)
    return int(child.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="Only glibc has this setting")
def test_kept_memory_causes_fewer_page_faults() -> None:
    assert page_faults("keep") < page_faults("default") / 4
