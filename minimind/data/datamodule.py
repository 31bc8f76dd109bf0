"""Wires prepared data to Lightning."""

import lightning.pytorch as pl
import torch

from minimind.data.config import DataConfig
from minimind.data.loader import TrainLoader, ValidationLoader
from minimind.data.packing import WindowPacking, validation_packing
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData
from minimind.utils.seeding import stream_seed


class DataModule(pl.LightningDataModule):
    def __init__(self, cfg: DataConfig, data: PreparedData, *, seed: int, batch_tokens: int, micro_batch: int,
                 max_steps: int) -> None:  # fmt: skip
        super().__init__()
        self.cfg = cfg
        (source,) = data.sources
        self.train_packing = WindowPacking(source.stream(TRAIN), cfg.sequence_length)
        self.validation_packing = validation_packing(source.stream(VALIDATION), cfg.sequence_length)
        self.order_seed = stream_seed(seed, "order")
        self.batch_rows = batch_tokens // cfg.sequence_length
        self.micro_batch = micro_batch
        self.max_steps = max_steps

    def train_dataloader(self) -> TrainLoader:
        trainer = self._trainer()
        accumulation = self.batch_rows // (self.micro_batch * trainer.world_size)
        return TrainLoader(
            self.train_packing,
            seed=self.order_seed,
            batch_rows=self.batch_rows,
            micro_batch=self.micro_batch,
            num_batches=self.max_steps * accumulation,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            num_workers=self.cfg.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> ValidationLoader:
        trainer = self._trainer()
        return ValidationLoader(
            self.validation_packing, rows=self.micro_batch, rank=trainer.global_rank, world_size=trainer.world_size
        )

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("The data module gives loaders only to a Trainer it is attached to.")
        return self.trainer
