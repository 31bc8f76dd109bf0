"""Is a loss far above what it was of late? A rule that a few odd losses cannot bend."""

from collections import deque
from statistics import median

REMEMBERED = 20  # losses, one per log point
NEEDED = 8  # before anything is called a spike
SPREADS = 6.0  # how many standard deviations, as told from the median deviation
LEAST = 0.1  # nats above the median below which nothing is a spike, however calm the losses were


class LossSpikes:
    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=REMEMBERED)

    def height(self, loss: float) -> float | None:
        """Nats above the running median if `loss` is a spike, else None; remembers it either way."""
        known = list(self.losses)
        self.losses.append(loss)
        if len(known) < NEEDED:
            return None
        middle = median(known)
        deviation = 1.4826 * median(abs(value - middle) for value in known)  # σ of a normal distribution
        above = loss - middle
        return above if above > max(SPREADS * deviation, LEAST) else None
