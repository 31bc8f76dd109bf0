"""Data parallelism, as Lightning's strategy with our settings."""

from typing import TypeVar

from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from minimind.parallel.collectives import broadcast

T = TypeVar("T")


class PlainDDPStrategy(DDPStrategy):
    """Lightning would pickle what it broadcasts, such as the path of a logger's folder."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        return broadcast(obj, src)


def ddp_strategy() -> DDPStrategy:
    """Every rank computes the same buffers (router biases) itself, so none is broadcast.

    The environment is named: whoever started the processes, they carry torchrun's variables, and Lightning must not
    find SLURM, whose requeueing is ours.
    """
    return PlainDDPStrategy(
        cluster_environment=TorchElasticEnvironment(), broadcast_buffers=False, gradient_as_bucket_view=True
    )
