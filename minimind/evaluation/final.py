"""Optional measurements of the finished model: perplexity in longer contexts, and decoding speed."""

import time
from collections.abc import Sequence
from dataclasses import replace

from minimind.data.config import DataConfig
from minimind.data.loader import SequentialLoader
from minimind.data.packing import validation_packing
from minimind.data.shards import TokenStream
from minimind.evaluation.loop import evaluate
from minimind.evaluation.text_loss import TextMeasure
from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.model.config import YarnConfig
from minimind.model.transformer import MiniMind

SEQUENCES = 16  # of training's length, per forward pass


def context_metrics(
    model: MiniMind, stream: TokenStream, cfg: DataConfig, measure: TextMeasure, factors: Sequence[int], *, yarn: bool
) -> dict[str, float]:
    """`context_<n>x/perplexity` of held-out text, in windows n times as long as in training.

    With `yarn`, RoPE is extended by each factor, and restored afterwards. As in validation, every target has at least
    half a window of context.
    """
    original, trained = model.config.rope_scaling, cfg.sequence_length
    metrics = {}
    for factor in factors:
        if yarn:
            model.set_rope_scaling(YarnConfig(factor=factor, original_max_position_embeddings=trained))
        packing = validation_packing(stream, replace(cfg, sequence_length=trained * factor))
        windows = SequentialLoader(packing, batch=max(1, SEQUENCES // factor))
        metrics[f"context_{factor}x/perplexity"] = evaluate(model, measure, {"": windows})["val/perplexity"]
    model.set_rope_scaling(original)
    return metrics


def decoding_metrics(model: MiniMind, num_tokens: int) -> dict[str, float]:
    """Speed of greedy decoding of one sequence, after a warm-up, and bytes of KV cache per token.

    Leaves the model in evaluation mode.
    """
    greedy = SamplingConfig(temperature=0.0)
    num_tokens = min(num_tokens, model.config.context_length - 1)
    for _ in generate(model, [0], max_new_tokens=min(8, num_tokens), sampling=greedy):
        pass
    start = time.perf_counter()
    generated = sum(1 for _ in generate(model, [0], max_new_tokens=num_tokens, sampling=greedy))
    seconds = time.perf_counter() - start
    return {
        "decode/tokens_per_second": generated / seconds,
        "decode/kv_cache_bytes_per_token": model.config.kv_bytes_per_token(model.dtype.itemsize),
    }
