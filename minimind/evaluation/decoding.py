"""How fast a model writes, and what its cache holds."""

import time

from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.model.transformer import MiniMind


def decoding_metrics(model: MiniMind, num_tokens: int) -> dict[str, float]:
    """Greedy decoding of one sequence from one token, the first writing left out; the model is left in evaluation."""
    greedy = SamplingConfig(temperature=0.0)
    num_tokens = min(num_tokens, model.config.context_length - 1)
    for _ in generate(model, [0], max_new_tokens=min(8, num_tokens), sampling=greedy):
        pass
    start = time.perf_counter()
    written = sum(1 for _ in generate(model, [0], max_new_tokens=num_tokens, sampling=greedy))
    seconds = time.perf_counter() - start
    return {
        "decode/tokens_per_second": written / seconds,
        "decode/kv_cache_bytes_per_token": model.config.kv_bytes_per_token(model.dtype.itemsize),
    }
