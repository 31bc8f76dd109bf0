"""Wires prepared data to Lightning."""

import lightning.pytorch as pl
import torch

from minimind.data.config import DataConfig
from minimind.data.loader import TrainLoader, ValidationLoader
from minimind.data.mixture import Mixture, Source
from minimind.data.packing import Batch, Rows, training_packing, validation_packing, widen
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData
from minimind.utils.seeding import stream_seed


class DataModule(pl.LightningDataModule):
    def __init__(self, cfg: DataConfig, data: PreparedData, *, seed: int, batch_tokens: int, micro_batch: int,
                 max_steps: int) -> None:  # fmt: skip
        super().__init__()
        self.cfg = cfg
        sources = [Source(s.name, s.weight, training_packing(s.stream(TRAIN), cfg)) for s in data.sources]
        self.mixture = Mixture(sources, stream_seed(seed, "order"))
        self.validation_packings = [validation_packing(stream, cfg) for stream in data.streams(VALIDATION)]
        self.batch_rows = batch_tokens // cfg.sequence_length
        self.micro_batch = micro_batch
        self.max_steps = max_steps

    def train_dataloader(self) -> TrainLoader:
        trainer = self._trainer()
        accumulation = self.batch_rows // (self.micro_batch * trainer.world_size)
        return TrainLoader(
            self.mixture,
            batch_rows=self.batch_rows,
            micro_batch=self.micro_batch,
            num_batches=self.max_steps * accumulation,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            num_workers=self.cfg.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[ValidationLoader]:
        """One for each source, in their order."""
        trainer = self._trainer()
        return [
            ValidationLoader(packing, rows=self.micro_batch, rank=trainer.global_rank, world_size=trainer.world_size)
            for packing in self.validation_packings
        ]

    def on_after_batch_transfer(self, batch: Rows, dataloader_idx: int) -> Batch:
        """What travelled small is widened where it is used."""
        return widen(batch)

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("The data module gives loaders only to a Trainer it is attached to.")
        return self.trainer
