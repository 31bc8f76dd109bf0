"""Perplexity of the held-out text in windows longer than those trained on, read with YaRN or without."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from minimind.cli.measure import ROWS, add_losses
from minimind.data.config import DataConfig
from minimind.data.packing import validation_packing
from minimind.data.shards import TokenStream
from minimind.evaluation.text_loss import TextLoss
from minimind.model.config import YarnConfig
from minimind.model.transformer import MiniMind


def context_figures(
    model: MiniMind, stream: TokenStream, cfg: DataConfig, token_bytes: torch.Tensor, factors: Sequence[int],
    *, yarn: bool, precision: str,
) -> dict[str, float]:  # fmt: skip
    """`context_<n>x/perplexity` for windows n times as long as in training; the model is left as it was.

    With `yarn` each length is read with that factor; as in validation every target has half a window before it.
    """
    as_it_was, trained = model.config.rope_scaling, cfg.sequence_length
    figures = {}
    for factor in factors:
        if yarn:
            model.set_rope_scaling(YarnConfig(factor=factor, original_max_position_embeddings=trained))
        metric = TextLoss(token_bytes).to(model.device)
        packing = validation_packing(stream, replace(cfg, sequence_length=trained * factor))
        add_losses(model.eval(), packing, max(1, ROWS // factor), precision, [metric])
        figures[f"context_{factor}x/perplexity"] = metric.compute()["perplexity"]
    model.set_rope_scaling(as_it_was)
    return figures
