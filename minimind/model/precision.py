"""In which type the matrix products of a part are computed."""

import torch
from torch import Tensor


def for_matmul(x: Tensor) -> Tensor:
    """x in the type that autocast gives matrix products: made once, and kept once, where several of them share it."""
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))
