"""Data parallelism, as Lightning's strategy with our settings."""

from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy


def ddp_strategy() -> DDPStrategy:
    """Every rank computes the same buffers (router biases) itself, so none is broadcast.

    The environment is named: whoever started the processes, they carry torchrun's variables, and Lightning must not
    find SLURM, whose requeueing is ours.
    """
    return DDPStrategy(
        cluster_environment=TorchElasticEnvironment(), broadcast_buffers=False, gradient_as_bucket_view=True
    )
