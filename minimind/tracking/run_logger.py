"""What a logger of a run may show besides figures; one that cannot show a kind leaves it out."""

from typing import Any

from lightning.pytorch.loggers import Logger

Histogram = dict[str, Any]  # {"low", "high": ends of the range, "counts": one for each of as many equal bins}


class RunLogger(Logger):
    """A mirror of the run folder, which has everything already. Made as `Class(run=…, resume_step=…, **settings)`."""

    def log_histograms(self, histograms: dict[str, Histogram], step: int) -> None:
        pass

    def log_samples(self, samples: list[dict[str, Any]], step: int) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        """The run has ended, in whatever way; nothing comes after."""
