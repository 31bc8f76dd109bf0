"""The interface between an objective and the training loop, which does not depend on tokens, pairs or rollouts.

An objective defines its examples: how they are built from prepared data, how a step's batches are preprocessed, and the
loss of one batch. All losses are sums; the loop divides once, by the weight of the whole step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from minimind.data.config import DataConfig
from minimind.data.examples import ExampleSource
from minimind.data.prepare import PreparedSource
from minimind.model.transformer import MiniMind
from minimind.objectives.config import ObjectiveConfig
from minimind.tokenizer.bpe import BPE

Config = TypeVar("Config", bound=ObjectiveConfig)
Sum = tuple[Tensor, Tensor]  # a metric's sum and count; their ratio is logged
Reduce = Callable[[Tensor], Tensor]  # sums over the data-parallel ranks


@dataclass
class Loss:
    """The loss of one batch. A batch without targets has weight 0; a step of such batches changes nothing."""

    total: Tensor  # () sum of the losses, without auxiliary terms
    weight: Tensor  # () number of terms in `total`: target tokens, pairs or sequences
    num_tokens: Tensor  # () target tokens, for the throughput metrics
    auxiliary: Tensor | None = None  # () auxiliary losses, multiplied by `weight`
    metrics: Mapping[str, Sum] = field(default_factory=dict)  # declared in the settings; missing ones count as (0, 0)


class Objective(Generic[Config]):
    """Base class of objectives; `Config` is the class of its settings."""

    def __init__(self, cfg: Config, *, data: DataConfig, tokenizer: BPE) -> None:
        self.cfg = cfg
        self.data = data
        self.tokenizer = tokenizer
        # The models named by `cfg.frozen()`. Loaded when training starts: in evaluation mode, without gradients, on the
        # trained model's device and in its dtype.
        self.frozen: dict[str, MiniMind] = {}

    def examples(self, source: PreparedSource, split: str) -> ExampleSource:
        """The training or validation examples of one source."""
        raise NotImplementedError

    def enrich(self, model: MiniMind, batches: list[Any], reduce: Reduce) -> list[Any]:
        """Add what the loss needs to this rank's batches of a step; called once per step, without gradients.

        All ranks call this together, so `reduce` may be used. At least one batch must be returned. The model is in
        training mode, with dropout; an implementation that generates text must switch it back afterwards.
        """
        return batches

    def loss(self, model: MiniMind, batch: Any) -> Loss:
        """The loss of one batch, which must depend on trainable weights whatever the batch contains.

        Keep counts as integers: with `bf16-true`, floats created here are rounded to bf16. For an MoE model, include
        the auxiliary loss and the metrics of `balance`.
        """
        raise NotImplementedError

    def metric(self, model: MiniMind) -> Metric:
        """Create the accumulator of held-out batches; its `compute` returns values by name."""
        return SumsMetric(self.cfg.metrics)

    def measure(self, model: MiniMind, batch: Any, metrics: Sequence[Metric]) -> None:
        """Add a held-out batch to the metrics. Ranks are not synchronized here, so `reduce` returns its argument."""
        (batch,) = self.enrich(model, [batch], lambda value: value)
        loss = self.loss(model, batch)
        for metric in metrics:
            metric.update({"loss": (loss.total, loss.weight), **loss.metrics})


class SumsMetric(Metric):
    """Means of `loss` and the named metrics over held-out examples; a metric without any examples is left out.

    Sums and counts are divided only at the end, after being summed over all batches and ranks.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = ("loss", *names)
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Sum]) -> None:
        """Add (sum, count) by name; other names, such as those of training-only metrics, are ignored."""
        for index, name in enumerate(self.names):
            if name in values:
                total, count = values[name]
                self.sums[index] += total.double()
                self.counts[index] += count.double()

    def compute(self) -> dict[str, float]:
        pairs = zip(self.names, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in pairs if count}
