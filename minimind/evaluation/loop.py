"""The evaluation loop: of training, of evaluate.py, and of whoever else wants to know how good a model is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torchmetrics import Metric

from minimind.data.examples import Examples
from minimind.model.transformer import MiniMind
from minimind.utils.ranks import global_rank
from minimind.utils.seeding import isolated_stream


class Measure(Protocol):
    """What is measured: the loss of a text, or what an objective says."""

    def metric(self, model: MiniMind) -> Metric:
        """What batches are added up in. `compute` gives values by name."""

    def measure(self, model: MiniMind, batch: Any, metrics: Sequence[Metric]) -> None:
        """Adds one batch to each of the metrics."""


@torch.inference_mode()
def evaluate(
    model: MiniMind, measure: Measure, sources: Mapping[str, Iterable[Examples]], total: Metric | None = None
) -> dict[str, float]:
    """`val/<metric>` over all sources, and `val/<source>/<metric>` of each where there are several.

    The model is left in the mode it was in, and so are the global generators: when a run is validated must not change
    what it learns. With several ranks each gives its share of the examples, and all get the
    same values.

    Args:
        total: what all batches are added up in, for a caller who wants more of it than these values.
    """
    was_training = model.training
    model.eval()
    of_all = (measure.metric(model) if total is None else total).to(model.device)
    values: dict[str, float] = {}
    with isolated_stream(0, f"evaluation/rank{global_rank()}"):
        for name, source in sources.items():
            of_source = measure.metric(model).to(model.device)
            for examples in source:
                measure.measure(model, examples.to(model.device).widen(), [of_all, of_source])
            if len(sources) > 1:
                values |= {f"val/{name}/{key}": value for key, value in _of_source(of_source).items()}
    model.train(was_training)
    return {f"val/{key}": value for key, value in of_all.compute().items()} | values


def _of_source(metric: Metric) -> dict[str, float]:
    """What a metric says of a part; `of_source` names what of it is worth a curve of its own."""
    values = metric.compute()
    return {key: values[key] for key in getattr(metric, "of_source", values) if key in values}
