"""What every objective gives the training loop, which knows no tokens, pairs or rollouts.

An objective owns its example: it says what examples are made of prepared data, what happens to a step's batches before
the loss, and the loss of one batch. All losses are sums: the loop divides once, by what the whole step weighs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor
from torchmetrics import Metric

from minimind.data.config import DataConfig
from minimind.data.examples import ExampleSource
from minimind.data.prepare import PreparedSource
from minimind.evaluation.sums import SumsMetric
from minimind.model.transformer import MiniMind
from minimind.objectives.config import ObjectiveConfig
from minimind.tokenizer.bpe import BPE

Config = TypeVar("Config", bound=ObjectiveConfig)
Sum = tuple[Tensor, Tensor]  # a metric as its sum, and how many that is of; logged as their ratio
Reduce = Callable[[Tensor], Tensor]  # the sum over the data-parallel ranks


@dataclass
class Loss:
    """Of one batch. A batch with nothing to learn from has the weight 0; a step of such batches changes nothing."""

    total: Tensor  # () summed, without auxiliary terms
    weight: Tensor  # () what the sum is of: target tokens, pairs or sequences
    num_tokens: Tensor  # () target tokens, for the throughput
    auxiliary: Tensor | None = None  # () what else is minimised, times `weight`
    metrics: Mapping[str, Sum] = field(default_factory=dict)  # of those that the settings declare; none is like (0, 0)


class Objective(Generic[Config]):
    """Base of the objectives, each with the class of its settings."""

    def __init__(self, cfg: Config, *, data: DataConfig, tokenizer: BPE) -> None:
        self.cfg = cfg
        self.data = data
        self.tokenizer = tokenizer
        # What the settings name as such: loaded when training starts, in evaluation mode, without gradients, on the
        # model's device and in its dtype.
        self.frozen: dict[str, MiniMind] = {}

    def examples(self, prepared: PreparedSource, split: str) -> ExampleSource:
        """The examples of one source, for training or held out."""
        raise NotImplementedError

    def enrich(self, model: MiniMind, batches: list[Any], reduce: Reduce) -> list[Any]:
        """A step's batches with what the loss needs besides, computed once and without gradients.

        Every rank calls it at the same time, so `reduce` may be used; the batches are this rank's, and one or more must
        be left. The model is in training mode, with dropout; whoever writes with it puts it back there.
        """
        return batches

    def loss(self, model: MiniMind, batch: Any) -> Loss:
        """Depends on weights that are trained, whatever is in the batch.

        Counts are best kept as integers: with `bf16-true` a float that is made here is rounded to bf16. The loss of a
        model with experts has the auxiliary term and the metrics of `balance`.
        """
        raise NotImplementedError

    def metric(self, model: MiniMind) -> Metric:
        """What held-out batches are added up in; its `compute` gives the values by name."""
        return SumsMetric(self.cfg.metrics)

    def measure(self, model: MiniMind, batch: Any, metrics: Sequence[Metric]) -> None:
        """Adds a held-out batch; ranks are not in step here, so that `enrich` gets nothing summed."""
        (batch,) = self.enrich(model, [batch], lambda value: value)
        loss = self.loss(model, batch)
        for metric in metrics:
            metric.update({"loss": (loss.total, loss.weight), **loss.metrics})
