"""Perplexity of the held-out text in windows longer than those trained on, read with YaRN or without."""

from collections.abc import Sequence
from dataclasses import replace

from minimind.data.config import DataConfig
from minimind.data.loader import SequentialLoader
from minimind.data.packing import validation_packing
from minimind.data.shards import TokenStream
from minimind.evaluation.loop import evaluate
from minimind.evaluation.text_loss import TextMeasure
from minimind.model.config import YarnConfig
from minimind.model.transformer import MiniMind

SEQUENCES = 16  # of training's length, in one forward pass


def context_metrics(
    model: MiniMind, stream: TokenStream, cfg: DataConfig, measure: TextMeasure, factors: Sequence[int], *, yarn: bool
) -> dict[str, float]:
    """`context_<n>x/perplexity` for windows n times as long as in training; the model is left as it was.

    With `yarn` each length is read with that factor; as in validation every target has half a window before it.
    """
    as_it_was, trained = model.config.rope_scaling, cfg.sequence_length
    figures = {}
    for factor in factors:
        if yarn:
            model.set_rope_scaling(YarnConfig(factor=factor, original_max_position_embeddings=trained))
        longer = validation_packing(stream, replace(cfg, sequence_length=trained * factor))
        windows = SequentialLoader(longer, batch=max(1, SEQUENCES // factor))
        figures[f"context_{factor}x/perplexity"] = evaluate(model, measure, {"": windows})["val/perplexity"]
    model.set_rope_scaling(as_it_was)
    return figures
