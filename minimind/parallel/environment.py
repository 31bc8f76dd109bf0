"""The environment of a process: whether torchrun, srun or `launch` started it as a rank, and SLURM requeueing."""

import hashlib
import os
import socket
import subprocess
import sys
from typing import NamedTuple

from minimind.utils.terminal import say

FIRST_PORT, PORTS = 20_000, 12_000  # below the ephemeral ports of common systems


class Tree(NamedTuple):
    """Numbers of processes of a run."""

    world_size: int
    per_node: int

    @property
    def num_nodes(self) -> int:
        return self.world_size // self.per_node


def joined_tree() -> Tree | None:
    """The process tree of this rank; None for a single process. Translates srun's variables to torchrun's."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        os.environ.update(_slurm_as_torchrun())
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or "RANK" not in os.environ:
        return None
    return Tree(world_size, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))


def _slurm_as_torchrun() -> dict[str, str]:
    """torchrun's variables from SLURM's; the port depends on the job step, as two steps of a job may run at once."""
    get = os.environ.get
    num_tasks, num_nodes = int(os.environ["SLURM_NTASKS"]), int(get("SLURM_NNODES", "1"))
    step = f"{get('SLURM_JOB_ID', '')}.{get('SLURM_STEP_ID', '')}"
    port = FIRST_PORT + int(hashlib.sha256(step.encode()).hexdigest(), 16) % PORTS
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": get("SLURM_LOCALID", "0"),
        "GROUP_RANK": get("SLURM_NODEID", "0"),
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_WORLD_SIZE": str(num_tasks // num_nodes),
        "MASTER_ADDR": _address(num_nodes),
        "MASTER_PORT": get("MASTER_PORT") or str(port),
    }


def _address(num_nodes: int) -> str:
    """Rendezvous address: on several nodes `MASTER_ADDR`, else the first host (`gpu[03-10,12],cpu1` → `gpu03`)."""
    get = os.environ.get
    if num_nodes == 1:
        return "127.0.0.1"  # even if MASTER_ADDR is set: there are no other machines to reach
    from lightning.fabric.plugins.environments import SLURMEnvironment

    nodes = get("SLURM_STEP_NODELIST") or get("SLURM_NODELIST", "")
    return get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)


def keep_to_loopback() -> None:
    """If all ranks are on this machine, bind gloo and NCCL to the loopback interface unless the user chose another."""
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return
    for _, name in socket.if_nameindex():
        if name in ("lo", "lo0"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # exact match instead of a prefix


def job_id() -> str | None:
    """SLURM job ID as scontrol takes it, for an array task `<array>_<task>`; None outside SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Requeue this SLURM job and print whether that worked."""
    job = job_id()
    assert job is not None, "checked before the run was started"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is None:
        say(f"SLURM job {job} was requeued.", file=sys.stderr)
    else:
        say(f"SLURM job {job} could not be requeued; do it manually: scontrol requeue {job} ({problem})",
              file=sys.stderr)  # fmt: skip
