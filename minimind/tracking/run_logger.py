"""The base class of loggers: metrics, and what else a logger may show."""

from typing import Any

from lightning.pytorch.loggers import Logger

Histogram = dict[str, Any]  # {"low", "high": ends of the range, "counts": one per bin, bins of equal width}


class RunLogger(Logger):
    """Mirrors what the run folder already holds. Created as `Class(run=…, resume_step=…, **settings)`."""

    def log_histograms(self, histograms: dict[str, Histogram], step: int) -> None:
        pass

    def log_samples(self, samples: list[dict[str, Any]], step: int) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        """Called once when the run has ended, whether it finished, failed or was preempted."""
