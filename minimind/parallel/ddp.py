"""Data parallelism: Lightning's DDP strategy, with summed gradients and without pickle."""

from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from minimind.parallel.collectives import broadcast

T = TypeVar("T")


class PlainDDPStrategy(DDPStrategy):
    """DDP that sums gradients, and broadcasts objects as JSON where Lightning would pickle them."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        return broadcast(obj, src)

    def _register_ddp_hooks(self) -> None:
        """Sum the gradients, as losses are sums; torch would average them."""
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, sum_gradients)


def sum_gradients(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def ddp_strategy() -> DDPStrategy:
    """Strategy for ranks with torchrun's environment variables, however they were started.

    Buffers (router biases) are not broadcast, as each rank computes the same ones. The cluster environment is given, so
    that Lightning does not detect SLURM and requeue the job itself.
    """
    return PlainDDPStrategy(
        cluster_environment=TorchElasticEnvironment(), broadcast_buffers=False, gradient_as_bucket_view=True
    )
