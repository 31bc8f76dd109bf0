"""Detects loss spikes and stops a run whose loss or gradient stays non-finite."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from torch import Tensor

from minimind.runs.folder import RunFolder
from minimind.utils.errors import RunFailed
from minimind.utils.terminal import warn

WINDOW = 20  # losses kept, one per log point
MIN_LOSSES = 8  # losses needed before any is called a spike
THRESHOLD_SIGMAS = 6.0
THRESHOLD_NATS = 0.1  # no spike less than this above the median, however steady the losses were


class LossSpikes:
    """Detects losses far above the recent median; robust to a few outliers among the recent losses."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def height(self, loss: float) -> float | None:
        """Record `loss`, and return its nats above the running median if it is a spike, else None."""
        recent = list(self.losses)
        self.losses.append(loss)
        if len(recent) < MIN_LOSSES:
            return None
        middle = median(recent)
        sigma = 1.4826 * median(abs(value - middle) for value in recent)  # of a normal distribution with this MAD
        above = loss - middle
        return above if above > max(THRESHOLD_SIGMAS * sigma, THRESHOLD_NATS) else None


class Health:
    """The training metrics of a log point that show whether training is stable.

    Args:
        max_nonfinite_steps: consecutive non-finite steps after which the run stops.
        batch_examples: examples per optimizer step over all ranks.
    """

    def __init__(self, run: RunFolder, max_nonfinite_steps: int, batch_examples: int) -> None:
        self.run = run
        self.max_nonfinite_steps = max_nonfinite_steps
        self.batch_examples = batch_examples
        self.spikes = LossSpikes()
        self.in_spike = False
        self.nonfinite_steps = 0  # consecutive, up to the last log point

    def row(self, sums: Mapping[str, Tensor], step: int) -> dict[str, Any]:
        """Loss and gradient norm of the steps taken, the number of steps not taken, and the height of a loss spike."""
        row: dict[str, Any] = {}
        steps, skipped, empty = (int(sums[name].item()) for name in ("steps", "skipped", "empty"))
        if taken := steps - skipped - empty:
            row["train/loss"] = (sums["loss"] / sums["weight"]).item()
            row["train/grad_norm"] = (sums["grad_norm"] / taken).item()
            height = self.spikes.height(row["train/loss"])
            if height is not None:
                row["train/loss_spike"] = height
                if not self.in_spike:
                    warn(
                        f"The loss jumped to {row['train/loss']:.3f} before step {step}, "
                        f"{height:.3f} above its recent median."
                    )
            self.in_spike = height is not None
        if skipped:
            row["train/skipped_steps"] = skipped
        if empty:
            row["train/empty_steps"] = empty
        return row

    def update(self, step: int, last_good_step: int) -> None:
        self.nonfinite_steps = step - last_good_step

    def stop_if_nonfinite(self, step: int) -> None:
        """Raises: RunFailed, after `max_nonfinite_steps` consecutive non-finite steps."""
        nonfinite = self.nonfinite_steps
        if nonfinite < self.max_nonfinite_steps:
            return
        checkpoints = [folder.name for folder in self.run.complete_checkpoints()]
        first = step - nonfinite
        raise RunFailed(
            f"Stopped at step {step}: the loss or gradient was not finite in {nonfinite} consecutive steps "
            f"(trainer.max_nonfinite_steps is {self.max_nonfinite_steps}), starting with step {first + 1}, "
            f"which begins at example {first * self.batch_examples} of the data order. The last good checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}. Check that data, or try a lower optim.lr or "
            "trainer.gradient_clip; a larger trainer.max_nonfinite_steps resumes from the checkpoint."
        )

    def state_dict(self) -> dict[str, Any]:
        return {"in_spike": self.in_spike, "losses": list(self.spikes.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_spike = state["in_spike"]
        self.spikes.losses.extend(state["losses"])
