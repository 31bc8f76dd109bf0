"""Next-token prediction: cross-entropy on every token that is a target."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric

from minimind.data.examples import ExampleSource, TokenBatch
from minimind.data.packing import training_packing, validation_packing
from minimind.data.prepare import TRAIN, PreparedSource
from minimind.evaluation.text_loss import TextMeasure, forward_batch
from minimind.model.config import IGNORED
from minimind.model.losses import cross_entropy_sum
from minimind.model.transformer import MiniMind
from minimind.objectives.balance import balance
from minimind.objectives.config import PretrainConfig
from minimind.objectives.protocol import Loss, Objective


def next_token_loss(model: MiniMind, batch: TokenBatch) -> Loss:
    """The summed cross-entropy of a batch, weighted by its number of target tokens."""
    logits, routings = forward_batch(model, batch)
    total = cross_entropy_sum(logits, batch.labels)
    is_target = batch.labels != IGNORED  # (B, T)
    num_tokens = is_target.sum()
    auxiliary, metrics = balance(model.config, routings, is_target, sequence_weights=is_target.sum(dim=1).float())
    return Loss(total, num_tokens, num_tokens, auxiliary, metrics)


class Pretrain(Objective[PretrainConfig]):
    """Packed token sequences, evaluated by loss, perplexity and bits per byte."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.text = TextMeasure(self.tokenizer)

    def examples(self, source: PreparedSource, split: str) -> ExampleSource:
        packing = training_packing if split == TRAIN else validation_packing
        return packing(source.stream(split), self.data)

    def loss(self, model: MiniMind, batch: TokenBatch) -> Loss:
        return next_token_loss(model, batch)

    def metric(self, model: MiniMind) -> Metric:
        return self.text.metric(model)

    def measure(self, model: MiniMind, batch: TokenBatch, metrics: Sequence[Metric]) -> None:
        self.text.measure(model, batch, metrics)
