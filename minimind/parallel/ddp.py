"""Data parallelism, as Lightning's strategy with our settings."""

from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from minimind.parallel.collectives import broadcast

T = TypeVar("T")


class PlainDDPStrategy(DDPStrategy):
    """Lightning would pickle what it broadcasts, such as the path of a logger's folder."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        return broadcast(obj, src)

    def _register_ddp_hooks(self) -> None:
        """Gradients are of sums, and are added up; torch would average them."""
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, add_up)


def add_up(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def ddp_strategy() -> DDPStrategy:
    """Every rank computes the same buffers (router biases) itself, so none is broadcast.

    The environment is named: whoever started the processes, they carry torchrun's variables, and Lightning must not
    find SLURM, whose requeueing is ours.
    """
    return PlainDDPStrategy(
        cluster_environment=TorchElasticEnvironment(), broadcast_buffers=False, gradient_as_bucket_view=True
    )
