"""TensorBoard through Lightning's logger: metrics, histograms and samples."""

from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from minimind.runs.folder import RunFolder
from minimind.tracking.run_logger import Histogram, RunLogger
from minimind.utils.errors import UserError


class TensorBoard(RunLogger, TensorBoardLogger):
    """Rows reach the disk before the checkpoint of their step; a resumed run discards those after its checkpoint.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, run: RunFolder, resume_step: int) -> None:
        try:
            TensorBoardLogger.__init__(
                self, save_dir=run.path, name="tensorboard", version="", purge_step=resume_step + 1
            )
        except ModuleNotFoundError:
            raise UserError(
                "logger=tensorboard needs the package tensorboard, which is not installed: "
                "pip install -c constraints.txt -e '.[tensorboard]'."
            ) from None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self.experiment.flush()

    def log_histograms(self, histograms: dict[str, Histogram], step: int) -> None:
        for name, histogram in histograms.items():
            counts = np.asarray(histogram["counts"], dtype=np.float64)
            edges = np.linspace(histogram["low"], histogram["high"], len(counts) + 1)
            centers = (edges[:-1] + edges[1:]) / 2
            self.experiment.add_histogram_raw(
                name, min=edges[0], max=edges[-1], num=int(counts.sum()), sum=float(counts @ centers),
                sum_squares=float(counts @ centers**2), bucket_limits=edges[1:], bucket_counts=counts, global_step=step,
            )  # fmt: skip

    def log_samples(self, samples: list[dict[str, Any]], step: int) -> None:
        for number, sample in enumerate(samples, start=1):
            self.experiment.add_text(f"sample {number}", f"**{sample['prompt']}**{sample['continuation']}", step)
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Keeps the writer open: validation may follow fit, and a reopened writer would purge what it has written."""

    def finish(self, exit_code: int) -> None:
        self.experiment.close()
