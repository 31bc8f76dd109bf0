"""What every objective gives the training loop."""

from typing import NamedTuple, Protocol

from torch import Tensor

from minimind.data.packing import Batch
from minimind.model.transformer import MiniMind


class ExpertUse(NamedTuple):
    """How a batch used the experts of a mixture."""

    balance_loss: Tensor  # () mean over layers times real tokens; 1 a token at perfect balance
    load: Tensor  # (layers, E) choices of each expert


class Loss(NamedTuple):
    """Sums, not means: the loop divides once, by the real tokens of the whole global batch."""

    loss: Tensor  # () summed over real target tokens, without auxiliary terms
    auxiliary: Tensor | None  # () what else is minimised, times real tokens
    num_tokens: Tensor  # () real target tokens
    experts: ExpertUse | None


class Objective(Protocol):
    def __call__(self, model: MiniMind, batch: Batch) -> Loss: ...
