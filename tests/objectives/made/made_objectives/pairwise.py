"""Hinge loss on the log-probability of a text over its shuffled version, relative to a frozen reference model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_objectives.config import PairwiseConfig
from minimind.data.examples import ExampleSource, TokenBatch, TokenSequences
from minimind.data.packing import WindowPacking
from minimind.data.prepare import PreparedSource
from minimind.evaluation.text_loss import forward_batch
from minimind.model.config import IGNORED
from minimind.model.losses import token_log_probs
from minimind.model.transformer import MiniMind
from minimind.objectives.balance import balance
from minimind.objectives.protocol import Loss, Objective, Reduce
from minimind.utils.ranks import global_rank


class PairBatch(NamedTuple):
    tokens: TokenBatch  # 2B sequences: the chosen ones, then the rejected ones
    reference: Tensor | None = None  # (2B,) log-probabilities from the frozen model


class Pairs(NamedTuple):
    chosen: TokenSequences
    rejected: TokenSequences

    def join(self, others: Sequence["Pairs"], order: Tensor) -> "Pairs":
        chosen, rejected = zip(*others, strict=True)
        return Pairs(self.chosen.join(chosen, order), self.rejected.join(rejected, order))

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.chosen.to(device), self.rejected.to(device))

    def widen(self) -> PairBatch:
        count = len(self.chosen.tokens)
        return PairBatch(self.chosen.join([self.rejected], torch.arange(2 * count)).widen())


class ShuffledWindows:
    def __init__(self, windows: WindowPacking) -> None:
        self.windows = windows
        self.num_examples = windows.num_examples

    def read(self, numbers: NDArray[np.int64]) -> Pairs:
        chosen = self.windows.read(numbers)
        rejected = chosen.tokens.numpy().copy()
        half = rejected.shape[1] // 2
        for sequence, number in zip(rejected, numbers.tolist(), strict=True):
            sequence[half:] = np.random.default_rng(number).permutation(sequence[half:])
        return Pairs(chosen, chosen._replace(tokens=torch.from_numpy(rejected)))


class Pairwise(Objective[PairwiseConfig]):
    def examples(self, prepared: PreparedSource, split: str) -> ExampleSource:
        return ShuffledWindows(WindowPacking(prepared.stream(split), self.data.sequence_length))

    def enrich(self, model: MiniMind, batches: list[PairBatch], reduce: Reduce) -> list[PairBatch]:
        reference = self.frozen["reference"]
        return [batch._replace(reference=sequence_log_probs(reference, batch.tokens)) for batch in batches]

    def loss(self, model: MiniMind, batch: PairBatch) -> Loss:
        tokens = batch.tokens
        logits, routings = forward_batch(model, tokens)
        assert batch.reference is not None
        gain = token_log_probs(logits, tokens.labels).sum(dim=1) - batch.reference
        chosen, rejected = gain.chunk(2)
        margins = chosen - rejected  # (B,)
        pairs = torch.tensor(len(margins), device=margins.device)
        real = tokens.labels != IGNORED
        half_a_pair = torch.full((2 * len(margins),), 0.5, device=margins.device)
        auxiliary, metrics = balance(model.config, routings, real, sequence_weights=half_a_pair)
        metrics["accuracy"] = ((margins > 0).sum(), pairs)
        if global_rank() == 1:
            metrics["pairs/of_rank_1"] = (pairs, torch.ones_like(pairs))
        loss = (self.cfg.margin - margins).relu().sum()
        return Loss(loss, pairs, real.sum(), auxiliary, metrics)


def sequence_log_probs(model: MiniMind, batch: TokenBatch) -> Tensor:
    return token_log_probs(forward_batch(model, batch).logits, batch.labels).sum(dim=1)
