"""Key/value cache: decoding computes only the new token instead of the whole sequence."""

import torch
from torch import Tensor

from minimind.model.config import ModelConfig


class KVCache:
    """Preallocated keys and values of all layers, (layers, B, K, capacity, H), and the length of each sequence.

    Sequences may differ in length. Tokens fill a sequence's slots in order and a query in slot s attends to slots
    0 … s, so what padding wrote to later slots is overwritten before any query attends to it.

    `max_length` is an upper bound on the lengths, kept on the host so that reading it does not synchronize.
    """

    def __init__(self, cfg: ModelConfig, batch_size: int, capacity: int, *, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:  # fmt: skip
        shape = (cfg.num_hidden_layers, batch_size, cfg.num_key_value_heads, capacity, cfg.resolved_head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.max_length = 0
        self.ragged = False  # whether the sequences may differ in length
        self.document_ids = torch.zeros(batch_size, capacity, dtype=torch.long, device=device)
        self.padding_mask = torch.ones(batch_size, capacity, dtype=torch.bool, device=device)
        self.masked = False  # whether any document ids or padding were ever passed

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def next_slots(self, num_tokens: int) -> Tensor:
        """Slots of the next `num_tokens` tokens of each sequence: (B, T)."""
        return self.lengths[:, None] + torch.arange(num_tokens, device=self.lengths.device)

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, K, T, H) in their slots (B, T); return all, up to the longest sequence.

        Raises:
            ValueError: the cache is full.
        """
        end = self._end(keys.shape[2])
        if self.ragged:
            sequences = torch.arange(keys.shape[0], device=keys.device)[:, None]
            self.keys[layer][sequences, :, slots] = keys.transpose(1, 2).to(self.keys.dtype)
            self.values[layer][sequences, :, slots] = values.transpose(1, 2).to(self.values.dtype)
        else:
            self.keys[layer][:, :, self.max_length : end] = keys
            self.values[layer][:, :, self.max_length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]  # (B, K, S, H)

    def write_masks(
        self, slots: Tensor, document_ids: Tensor | None, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Store the document ids and padding mask of new tokens (B, T); return those of all keys (B, S), if any.

        Tokens without document ids continue the document of the token before them.
        """
        self.masked = self.masked or document_ids is not None or padding_mask is not None
        if not self.masked:
            return None, None
        end = self._end(slots.shape[1])
        if document_ids is None:
            last = (slots[:, :1] - 1).clamp(min=0)
            document_ids = self.document_ids.gather(1, last).expand_as(slots)
        if padding_mask is None:
            padding_mask = torch.ones_like(slots, dtype=torch.bool)
        self.document_ids.scatter_(1, slots, document_ids)
        self.padding_mask.scatter_(1, slots, padding_mask)
        return self.document_ids[:, :end], self.padding_mask[:, :end]

    def _end(self, num_tokens: int) -> int:
        end = self.max_length + num_tokens
        if end > self.capacity:
            raise ValueError(f"The KV cache holds {self.capacity} tokens, but {end} are needed; make it larger.")
        return end

    def advance(self, num_tokens: int, num_real: Tensor | None = None) -> None:
        """Count the tokens just written; `num_real` (B,) is how many per sequence are real, where some are padding."""
        self.max_length += num_tokens
        if num_real is None:
            self.lengths += num_tokens
        else:
            self.lengths += num_real
            self.ragged = True
