"""Which layout of processes."""

from dataclasses import dataclass
from enum import Enum


class Parallelism(Enum):
    single = "single"
    ddp = "ddp"  # every process holds the whole model and takes a share of the batch


@dataclass
class ParallelConfig:
    kind: Parallelism = Parallelism.single
    num_nodes: int = 1  # machines; more than one are started by torchrun or srun
