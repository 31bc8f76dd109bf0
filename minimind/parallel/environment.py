"""Whether this process was started as one of a tree: by torchrun, by srun, or by our own launch."""

import hashlib
import os
import socket
from typing import NamedTuple

FIRST_PORT, PORTS = 20_000, 12_000  # below what systems hand out to outgoing connections


class Tree(NamedTuple):
    world_size: int
    per_node: int

    @property
    def num_nodes(self) -> int:
        return self.world_size // self.per_node


def joined_tree() -> Tree | None:
    """The tree this process belongs to, None if it was started alone; SLURM's variables become torchrun's."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        os.environ.update(_slurm_as_torchrun())
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or "RANK" not in os.environ:
        return None
    return Tree(world_size, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))


def _slurm_as_torchrun() -> dict[str, str]:
    """Processes of one step agree on a port by the step's number: two steps of a job may run at once."""
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
    """The first host of the list (`gpu[03-10,12],cpu1` → `gpu03`) unless the user has named another."""
    get = os.environ.get
    if num_nodes == 1:
        return "127.0.0.1"  # though MASTER_ADDR may be set: nobody else is to be reached
    from lightning.fabric.plugins.environments import SLURMEnvironment

    nodes = get("SLURM_STEP_NODELIST") or get("SLURM_NODELIST", "")
    return get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)


def keep_to_loopback() -> None:
    """Gloo and NCCL listen where no other machine gets, if all ranks are on this one; a user's own choice stands."""
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return
    for _, name in socket.if_nameindex():
        if name in ("lo", "lo0"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # the very name, not what begins with it
