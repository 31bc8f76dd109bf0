"""Logs norms and histograms of gradients, weights and expert load at each log point (`logger.watch`)."""

from collections.abc import Iterator, Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor

from minimind.runs.metrics_file import append_row
from minimind.tracking.run_logger import Histogram, RunLogger
from minimind.training.callbacks.run_callback import RunCallback
from minimind.training.module import TrainingModule
from minimind.training.parts import Row, RunParts

BINS = 64


class Watch(RunCallback):
    """Adds norms to the metrics row; writes histograms to histograms.jsonl and the loggers that can show them."""

    def __init__(self, what: str) -> None:
        self.what = what

    def attach(self, parts: RunParts) -> None:
        super().attach(parts)
        parts.writer.sources.append(self.metrics)

    def metrics(self, trainer: pl.Trainer, module: TrainingModule, sums: Mapping[str, Tensor]) -> Row:
        row: Row = {}
        histograms: dict[str, Histogram] = {}
        for name, tensor in self._tensors(module):
            row[f"{name}/norm"] = torch.linalg.vector_norm(tensor).item()
            if (found := histogram(tensor)) is not None:
                histograms[name] = found
        if self.what in ("moe_load", "all") and "moe/load" in sums:
            for layer, load in enumerate(sums["moe/load"].tolist()):  # one bin per expert
                histograms[f"watch/moe_load/layer_{layer:02d}"] = {"low": 0, "high": len(load), "counts": load}
        if trainer.is_global_zero:
            append_row(self.parts.run.histograms, {"step": trainer.global_step, "histograms": histograms})
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.log_histograms(histograms, trainer.global_step)
        return row

    def _tensors(self, module: TrainingModule) -> Iterator[tuple[str, Tensor]]:
        """Gradients are those the optimizer received in the last step: averaged over tokens and clipped."""
        for name, parameter in module.model.named_parameters():
            if self.what in ("gradients", "all") and parameter.grad is not None:
                yield f"watch/gradients/{name}", _full_tensor(parameter.grad)
            if self.what in ("weights", "all"):
                yield f"watch/weights/{name}", _full_tensor(parameter.detach())


def _full_tensor(tensor: Tensor) -> Tensor:
    """Unshard and convert to float32; every rank must take part."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).float()


def histogram(tensor: Tensor) -> Histogram | None:
    """Bin the values; None if any of them is NaN or infinite."""
    low, high = (bound.item() for bound in tensor.aminmax())
    if not abs(low) < float("inf") > abs(high):
        return None
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(tensor, bins=BINS, min=low, max=high)
    return {"low": low, "high": high, "counts": [int(count) for count in counts.tolist()]}
