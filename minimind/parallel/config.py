"""Settings of the process layout."""

from dataclasses import dataclass
from enum import Enum


class Parallelism(Enum):
    single = "single"
    ddp = "ddp"  # each process holds the whole model and takes a share of the batch


@dataclass
class ParallelConfig:
    kind: Parallelism = Parallelism.single
    num_nodes: int = 1  # with more than one, torchrun or srun must start the processes
