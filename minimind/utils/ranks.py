"""Which process of the run this is, from the variables torchrun and srun set."""

import os


def global_rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def is_main_process() -> bool:
    return global_rank() == 0
