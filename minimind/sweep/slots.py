"""Where jobs run: a GPU each, or the CPU as a whole, unless more are asked for."""

import itertools
import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slot:
    """A place for one device of a job."""

    name: str
    gpu: str | None = None  # as CUDA_VISIBLE_DEVICES names it
    cores: frozenset[int] = field(default_factory=frozenset)  # of the CPU; none: all


def find_slots(num_parallel: int | None, *, cpu_only: bool) -> list[Slot]:
    """Args:
    num_parallel: how many jobs at a time; None: one a GPU, or one on a CPU.
    cpu_only: the jobs ask for the CPU.
    """
    gpus = [] if cpu_only else visible_gpus()
    if gpus:
        return [Slot(f"GPU {gpu}", gpu) for gpu in (gpus[i % len(gpus)] for i in range(num_parallel or len(gpus)))]
    if num_parallel is None or num_parallel == 1:
        return [Slot("CPU")]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bounds = [len(cores) * i // num_parallel for i in range(num_parallel + 1)]
    return [
        Slot(f"CPU {i}", None, frozenset(cores[start:end])) for i, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
