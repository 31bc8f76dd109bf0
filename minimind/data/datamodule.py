"""Lightning data module for training and validation examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.data.examples import ExampleSource
from minimind.data.loader import SequentialLoader, TrainLoader, ValidationLoader
from minimind.data.mixture import Mixture, Source
from minimind.utils.seeding import stream_seed


class DataModule(pl.LightningDataModule):
    """Yields each optimizer step as a list of micro-batches, and validation as a single item with all sources.

    Args:
        rank, world_size: data-parallel rank and number of such ranks.
    """

    def __init__(
        self, sources: Sequence[Source], validation: Mapping[str, ExampleSource], *, seed: int, batch_examples: int,
        micro_batch: int, num_steps: int, num_workers: int = 0, rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mixture = Mixture(sources, stream_seed(seed, "order"))
        self.validation = validation
        self.batch_examples = batch_examples
        self.micro_batch = micro_batch
        self.num_steps = num_steps
        self.num_workers = num_workers
        self.rank, self.world_size = rank, world_size

    def train_dataloader(self) -> TrainLoader:
        return TrainLoader(
            self.mixture,
            batch_examples=self.batch_examples,
            micro_batch=self.micro_batch,
            num_steps=self.num_steps,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> ValidationLoader:
        return ValidationLoader({
            name: SequentialLoader(source, batch=self.micro_batch, rank=self.rank, world_size=self.world_size)
            for name, source in self.validation.items()
        })  # fmt: skip

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move training examples in their compact form and widen them on the device; validation does so per batch."""
        return [examples.to(device).widen() for examples in batch] if isinstance(batch, list) else batch
