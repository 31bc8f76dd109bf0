"""Loss, perplexity and bits per byte of a text, summed over batches and ranks before anything is divided."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from minimind.data.examples import TokenBatch
from minimind.model.config import IGNORED
from minimind.model.losses import cross_entropy_sum
from minimind.model.transformer import MiniMind, Output
from minimind.tokenizer.bpe import BPE


def logits_of(model: MiniMind, batch: TokenBatch) -> Output:
    """What the model makes of a batch; where it has documents, each as if it stood alone."""
    return model(batch.input_ids, document_ids=batch.document_ids, position_ids=batch.position_ids)


class TextMeasure:
    """The loss of the targets of token sequences, in the evaluation loop."""

    def __init__(self, tokenizer: BPE) -> None:
        self.tokenizer = tokenizer

    def metric(self, model: MiniMind) -> "TextLoss":
        return TextLoss(padded_token_bytes(self.tokenizer, model.config.vocab_size))

    def measure(self, model: MiniMind, batch: TokenBatch, metrics: Sequence[Metric]) -> None:
        loss = cross_entropy_sum(logits_of(model, batch).logits, batch.labels)
        for metric in metrics:
            metric.update(loss, batch.labels)


class TextLoss(Metric):
    """Bits per byte = summed loss in bits ÷ UTF-8 bytes of the same text, so that tokenizers can be compared.

    Args:
        token_bytes: (V,) bytes each token stands for; a special token stands for none, but its loss counts.
    """

    full_state_update = False
    of_source = ("loss", "bits_per_byte")
    loss: Tensor
    num_tokens: Tensor
    num_bytes: Tensor
    token_bytes: Tensor

    def __init__(self, token_bytes: Tensor) -> None:
        super().__init__()
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_tokens", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("num_bytes", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, loss: Tensor, labels: Tensor) -> None:
        """Takes the loss in nats summed over `labels` (B, T) that are not IGNORED."""
        real = labels != IGNORED
        self.loss += loss.double()
        self.num_tokens += real.sum()
        self.num_bytes += self.token_bytes[labels[real]].sum()

    def compute(self) -> dict[str, float]:
        mean = (self.loss / self.num_tokens).item()
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "bits_per_byte": (self.loss / self.num_bytes).item() / math.log(2),
        }


def padded_token_bytes(tokenizer: BPE, vocab_size: int) -> Tensor:
    """Bytes of each token the model knows, (V,): none for places the tokenizer leaves empty."""
    lengths = torch.zeros(vocab_size, dtype=torch.long)
    lengths[: tokenizer.vocab_size] = torch.from_numpy(tokenizer.token_bytes)
    return lengths
