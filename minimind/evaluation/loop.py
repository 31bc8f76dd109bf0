"""The evaluation loop, used for validation during training and by evaluate.py."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torchmetrics import Metric

from minimind.data.examples import Examples
from minimind.model.transformer import MiniMind
from minimind.utils.ranks import global_rank
from minimind.utils.seeding import isolated_stream


class Measure(Protocol):
    """Computes the metrics of a batch: `TextMeasure` for the loss of text, or an objective."""

    def metric(self, model: MiniMind) -> Metric:
        """Create an accumulator of batches; its `compute` returns values by name."""

    def measure(self, model: MiniMind, batch: Any, metrics: Sequence[Metric]) -> None:
        """Add one batch to each of the metrics."""


@torch.inference_mode()
def evaluate(
    model: MiniMind, measure: Measure, sources: Mapping[str, Iterable[Examples]], total: Metric | None = None
) -> dict[str, float]:
    """Return `val/<metric>` over all sources, and `val/<source>/<metric>` per source if there are several.

    The model's mode and the global generators are restored, so that how often a run validates does not affect
    training. With several ranks, each passes its share of the examples and all get the same values.

    Args:
        total: accumulator of all batches, for callers that read more from it than the returned values.
    """
    was_training = model.training
    model.eval()
    overall = (measure.metric(model) if total is None else total).to(model.device)
    values: dict[str, float] = {}
    with isolated_stream(0, f"evaluation/rank{global_rank()}"):
        for name, source in sources.items():
            per_source = measure.metric(model).to(model.device)
            for examples in source:
                measure.measure(model, examples.to(model.device).widen(), [overall, per_source])
            if len(sources) > 1:
                values |= {f"val/{name}/{key}": value for key, value in _source_values(per_source).items()}
    model.train(was_training)
    return {f"val/{key}": value for key, value in overall.compute().items()} | values


def _source_values(metric: Metric) -> dict[str, float]:
    """Values to report per source: those in the metric's `per_source`, or all if it does not define that."""
    values = metric.compute()
    return {key: values[key] for key in getattr(metric, "per_source", values) if key in values}
