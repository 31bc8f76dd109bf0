"""The device: its name, supported precision, peak speed and memory."""

import ctypes
import functools
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Dense bf16/fp16 tensor-core FLOP/s, from the vendor's data sheets.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h

Product = Callable[[Tensor, Tensor], Tensor]


@functools.cache
def cpu_info() -> str:
    """Content of /proc/cpuinfo; empty on systems other than Linux."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.is_file() else ""


def pick_device(accelerator: str) -> torch.device:
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(accelerator)


def pick_precision(precision: str, device: torch.device) -> str:
    """Resolve `auto`: bf16-mixed if the device computes in bf16 natively, else 32-true."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    flags = cpu_info().split() if device.type == "cpu" else []
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16"} & set(flags) else "32-true"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast context for a forward pass; disabled for the `-true` precisions."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision.endswith("-mixed"))


@functools.cache
def peak_flops(device: torch.device, precision: str, product: Product) -> float | None:
    """Peak FLOP/s of the device, the denominator of MFU; None for a GPU that is not in the table.

    On a CPU it is measured once, with `product`, the model's own x Wᵀ.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
        return known if known is None or precision != "32-true" else known / 2  # TF32
    if device.type != "cpu":
        return None
    size = 1024
    matrix = torch.randn(size, size, dtype=torch.float32 if precision == "32-true" else torch.bfloat16)
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.1:  # long enough to outlast a busy moment
        start = time.perf_counter()
        product(matrix, matrix)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak MiB of this process so far: resident on the host, and allocated by torch on a GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    peaks = {"memory/host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if device.type == "cuda":
        peaks["memory/device_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks


def keep_freed_memory() -> bool:
    """Tell glibc not to return large freed blocks to the system; returns whether it could be told.

    Otherwise each step gets the memory for its activations from the system again, page by page and zeroed: a quarter
    of the default run's step time. The process stays as large as its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def describe_machine(device: torch.device) -> dict[str, str | int | None]:
    """Host name, GPU or CPU model, and number of CPU cores."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = cpu_info().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"host": socket.gethostname(), "device": name or platform.machine(), "cores": os.cpu_count()}
