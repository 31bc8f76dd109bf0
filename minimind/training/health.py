"""Whether training goes well: the loss of a log point, how far it jumped, and when to give up."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minimind.runs.folder import RunFolder
from minimind.training.loss_spikes import LossSpikes
from minimind.utils.errors import RunFailed
from minimind.utils.terminal import warn


class Health:
    """Args:
    max_nonfinite_steps: steps in a row, not finite, after which the run stops.
    """

    def __init__(self, run: RunFolder, max_nonfinite_steps: int, batch_examples: int) -> None:
        self.run = run
        self.max_nonfinite_steps = max_nonfinite_steps
        self.batch_examples = batch_examples
        self.spikes = LossSpikes()
        self.in_spike = False
        self.bad_in_a_row = 0

    def row(self, sums: Mapping[str, Tensor], step: int) -> dict[str, Any]:
        """Loss and gradient norm of the steps that were taken; how many were not; how far the loss jumped."""
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
                        f"The loss jumped to {row['train/loss']:.3f} before step {step}, {height:.3f} above its median."
                    )
            self.in_spike = height is not None
        if skipped:
            row["train/skipped_steps"] = skipped
        if empty:
            row["train/empty_steps"] = empty
        return row

    def see(self, step: int, last_good_step: int) -> None:
        self.bad_in_a_row = step - last_good_step

    def stop_if_lost(self, step: int) -> None:
        """Raises: RunFailed, when nothing but bad steps came for too long."""
        bad = self.bad_in_a_row
        if bad < self.max_nonfinite_steps:
            return
        checkpoints = [folder.name for folder in self.run.complete_checkpoints()]
        first = step - bad
        raise RunFailed(
            f"Stopped at step {step}: loss or gradient was not finite in {bad} steps in a row "
            f"(trainer.max_nonfinite_steps is {self.max_nonfinite_steps}), from step {first + 1} on, "
            f"which is example {first * self.batch_examples} of the data order. The last good checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}. Look at that data, or try a lower optim.lr or "
            "trainer.gradient_clip; a larger trainer.max_nonfinite_steps goes on from the checkpoint."
        )

    def state_dict(self) -> dict[str, Any]:
        return {"in_spike": self.in_spike, "losses": list(self.spikes.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_spike = state["in_spike"]
        self.spikes.losses.extend(state["losses"])
