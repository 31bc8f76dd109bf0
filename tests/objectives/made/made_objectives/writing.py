"""Policy gradient: generates text in `enrich` and reinforces what beats the mean reward over all ranks."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from made_objectives.config import WritingConfig
from minimind.data.examples import ExampleSource, TokenBatch
from minimind.data.packing import WindowPacking
from minimind.data.prepare import PreparedSource
from minimind.evaluation.text_loss import forward_batch
from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.model.config import IGNORED
from minimind.model.losses import token_log_probs
from minimind.model.transformer import MiniMind
from minimind.objectives.protocol import Loss, Objective, Reduce

PROMPT = 8


class WrittenBatch(NamedTuple):
    tokens: TokenBatch
    reward: Tensor  # (B,)
    advantage: Tensor  # (B,)


class Writing(Objective[WritingConfig]):
    def examples(self, prepared: PreparedSource, split: str) -> ExampleSource:
        return WindowPacking(prepared.stream(split), self.data.sequence_length)

    def enrich(self, model: MiniMind, batches: list[TokenBatch], reduce: Reduce) -> list[WrittenBatch]:
        was_training = model.training
        written = [self._write(model, batch) for batch in batches]
        model.train(was_training)
        rewards = [(batch.input_ids[:, PROMPT:] % 2 == 0).float().mean(dim=1) for batch in written]
        sums = reduce(torch.stack([torch.cat(rewards).sum(), torch.tensor(float(sum(map(len, rewards))))]))
        mean = sums[0] / sums[1]
        return [WrittenBatch(batch, reward, reward - mean) for batch, reward in zip(written, rewards, strict=True)]

    def _write(self, model: MiniMind, batch: TokenBatch) -> TokenBatch:
        """Samples from torch's global generator, whose state is in the checkpoint."""
        prompts, num = batch.input_ids[:, :PROMPT].tolist(), self.cfg.new_tokens
        texts = [[*p, *generate(model, p, max_new_tokens=num, sampling=SamplingConfig(1.0))] for p in prompts]
        tokens = torch.tensor(np.array(texts))
        labels = tokens[:, 1:].clone()
        labels[:, : PROMPT - 1] = IGNORED
        return TokenBatch(tokens[:, :-1], labels)

    def loss(self, model: MiniMind, batch: WrittenBatch) -> Loss:
        tokens = batch.tokens
        log_probs = token_log_probs(forward_batch(model, tokens).logits, tokens.labels).sum(dim=1)
        count = torch.tensor(len(log_probs))
        real = (tokens.labels != IGNORED).sum()
        return Loss(-(batch.advantage * log_probs).sum(), count, real, metrics={"reward": (batch.reward.sum(), count)})
