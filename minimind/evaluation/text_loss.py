"""Loss, perplexity and bits per byte of text, and the bits per byte of general-purpose compressors for comparison.

Losses, tokens and bytes are summed over all batches and ranks before anything is divided.
"""

import gzip
import lzma
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from minimind.data.examples import TokenBatch
from minimind.data.shards import TokenStream
from minimind.model.config import IGNORED
from minimind.model.losses import cross_entropy_sum
from minimind.model.transformer import MiniMind, Output
from minimind.tokenizer.bpe import BPE

MAX_COMPRESSED_BYTES = 64_000_000  # compressing more would take minutes


def forward_batch(model: MiniMind, batch: TokenBatch) -> Output:
    """The model's output for a batch; packed documents are isolated from each other if the batch has document ids."""
    return model(batch.input_ids, document_ids=batch.document_ids, position_ids=batch.position_ids)


class TextMeasure:
    """Measures the loss of the targets in token sequences, for the evaluation loop."""

    def __init__(self, tokenizer: BPE) -> None:
        self.tokenizer = tokenizer

    def metric(self, model: MiniMind) -> "TextLoss":
        return TextLoss(padded_token_bytes(self.tokenizer, model.config.vocab_size))

    def measure(self, model: MiniMind, batch: TokenBatch, metrics: Sequence[Metric]) -> None:
        loss = cross_entropy_sum(forward_batch(model, batch).logits, batch.labels)
        for metric in metrics:
            metric.update(loss, batch.labels)


class TextLoss(Metric):
    """Accumulates loss, perplexity and bits per byte.

    Bits per byte is the summed loss in bits ÷ the UTF-8 bytes of the same text, which makes different tokenizers
    comparable.

    Args:
        token_bytes: (V,) UTF-8 bytes per token; 0 for special tokens, whose loss still counts.
    """

    full_state_update = False
    per_source = ("loss", "bits_per_byte")
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
        """Add a batch: the loss in nats, summed over those of `labels` (B, T) that are not IGNORED."""
        is_target = labels != IGNORED
        self.loss += loss.double()
        self.num_tokens += is_target.sum()
        self.num_bytes += self.token_bytes[labels[is_target]].sum()

    def compute(self) -> dict[str, float]:
        mean = (self.loss / self.num_tokens).item()
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "bits_per_byte": (self.loss / self.num_bytes).item() / math.log(2),
        }


def padded_token_bytes(tokenizer: BPE, vocab_size: int) -> Tensor:
    """UTF-8 bytes of each token in the model's vocabulary, (V,); 0 for ids that the tokenizer does not use."""
    lengths = torch.zeros(vocab_size, dtype=torch.long)
    lengths[: tokenizer.vocab_size] = torch.from_numpy(tokenizer.token_bytes)
    return lengths


def compressor_baselines(streams: list[TokenStream], tokenizer: BPE) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` on the decoded documents of the streams as one file.

    Empty if there is too much text, or if only some tokens are targets: the model's bits per byte then cover only
    those and would not be comparable.
    """
    num_bytes = sum(stream.text_bytes for stream in streams)
    if any(stream.has_targets for stream in streams) or num_bytes > MAX_COMPRESSED_BYTES:
        return {}
    documents = (stream.document(index) for stream in streams for index in range(stream.num_documents))
    text = "".join(tokenizer.decode(document.tolist()) for document in documents).encode()
    sizes = {"gzip -9": len(gzip.compress(text, compresslevel=9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8 * size / max(1, len(text)) for name, size in sizes.items()}
