"""The keys and values already computed, so that each new token costs one step and not the whole text."""

import torch
from torch import Tensor

from minimind.model.config import ModelConfig


class KVCache:
    """Preallocated keys and values of all layers, (layers, B, K, capacity, H), with a length for each row.

    MetricsWriter may have different lengths: a key's place is its position, so a query at position p sees the places
    0 … p and whatever padding left behind lies beyond p until it is overwritten.

    The host's `max_length` bounds every row's length without asking the device for it.
    """

    def __init__(self, cfg: ModelConfig, batch_size: int, capacity: int, *, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:  # fmt: skip
        shape = (cfg.num_hidden_layers, batch_size, cfg.num_key_value_heads, capacity, cfg.resolved_head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.max_length = 0
        self.ragged = False  # whether rows may differ in length
        self.document_ids = torch.zeros(batch_size, capacity, dtype=torch.long, device=device)
        self.padding_mask = torch.ones(batch_size, capacity, dtype=torch.bool, device=device)
        self.masked = False  # whether either has ever been given

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def positions(self, num_tokens: int) -> Tensor:
        """The positions of the next `num_tokens` tokens of each row: (B, T)."""
        return self.lengths[:, None] + torch.arange(num_tokens, device=self.lengths.device)

    def write(self, layer: int, keys: Tensor, values: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, K, T, H) at its positions (B, T); returns all keys and values up to the longest row.

        Raises:
            ValueError: the cache is full.
        """
        end = self._end(keys.shape[2])
        if self.ragged:
            rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
            self.keys[layer][rows, :, position_ids] = keys.transpose(1, 2).to(self.keys.dtype)
            self.values[layer][rows, :, position_ids] = values.transpose(1, 2).to(self.values.dtype)
        else:
            self.keys[layer][:, :, self.max_length : end] = keys
            self.values[layer][:, :, self.max_length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]  # (B, K, S, H)

    def remember(
        self, position_ids: Tensor, document_ids: Tensor | None, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Stores the documents and padding of new tokens (B, T); returns those of all keys, (B, S), if any were given.

        Tokens of which no document is said go on with the one before them.
        """
        self.masked = self.masked or document_ids is not None or padding_mask is not None
        if not self.masked:
            return None, None
        end = self._end(position_ids.shape[1])
        if document_ids is None:
            before = (position_ids[:, :1] - 1).clamp(min=0)
            document_ids = self.document_ids.gather(1, before).expand_as(position_ids)
        if padding_mask is None:
            padding_mask = torch.ones_like(position_ids, dtype=torch.bool)
        self.document_ids.scatter_(1, position_ids, document_ids)
        self.padding_mask.scatter_(1, position_ids, padding_mask)
        return self.document_ids[:, :end], self.padding_mask[:, :end]

    def _end(self, num_tokens: int) -> int:
        end = self.max_length + num_tokens
        if end > self.capacity:
            raise ValueError(f"The KV cache holds {self.capacity} tokens, but {end} are needed; make it larger.")
        return end

    def advance(self, num_tokens: int, row_lengths: Tensor | None = None) -> None:
        """Counts tokens just written; `row_lengths` (B,) says how many of each row were real, if not all."""
        self.max_length += num_tokens
        if row_lengths is None:
            self.lengths += num_tokens
        else:
            self.lengths += row_lengths
            self.ragged = True
