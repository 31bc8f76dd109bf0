"""Copies training state to host memory, so that training can continue while it is written."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """Reusable host buffers for a state. The next `take` overwrites the last copy, which must be written by then."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy a nested state. A tensor that occurs more than once is copied once; a GPU is synchronized once."""
        copied: dict[tuple[Any, ...], Tensor] = {}
        result = {str(key): self._copy(value, str(key), copied) for key, value in state.items()}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return result

    def _copy(self, value: Any, path: str, copied: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(value, dict):
            return {key: self._copy(item, f"{path}/{key}", copied) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item, f"{path}/{index}", copied) for index, item in enumerate(value)]
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype)  # tied weights are one tensor
        if value.numel() == 0 or identity not in copied:
            buffer = self.buffers.get(path)
            if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
                buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                self.buffers[path] = buffer
            _copy_into(buffer, value)
            copied[identity] = buffer
        return copied[identity]


def _copy_into(buffer: Tensor, value: Tensor) -> None:
    """Copy on one thread if on the CPU: memory is the bottleneck, and torch's threads would contend for few cores."""
    if value.is_cpu and value.dim() and value.is_contiguous():
        np.copyto(buffer.view(torch.uint8).numpy(), value.view(torch.uint8).numpy())
    else:
        buffer.copy_(value, non_blocking=value.is_cuda)
