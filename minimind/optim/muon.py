"""Muon: the update of a matrix is its momentum with all singular values made equal (Jordan et al. 2024)."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minimind.utils.hardware import pick_precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic that lifts small singular values fastest, to 0.7 … 1.2
ITERATIONS = 5
RMS_OF_ADAMW = 0.2  # root mean square of AdamW's usual update, as a share of its learning rate (Liu et al. 2025)
STACKED_NUMBERS = 2**24  # at most in one stack, so that what is held besides weights and momentum has a bound


class Muon(torch.optim.Optimizer):
    """Muon for the groups that have a `momentum`, fused AdamW with its `betas` for the others.

    A parameter may be a stack of matrices (…, rows, columns); in a group with `row_blocks` b, each of its matrices is
    b matrices one below the other. Each is made orthogonal for itself. Learning rates mean what they mean for AdamW:
    an update is scaled to the size of AdamW's. Where `found_inf` is 1, a step changes nothing; the device is not asked.
    Source: Jordan et al. 2024; the scale, Liu et al. 2025 ("Muon is scalable for LLM training"), equation 4.
    """

    found_inf: Tensor | None = None  # what torch's fused optimizers look at, too

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"row_blocks": 1})
        self.adamw = torch.optim.AdamW(self._without_momentum(), betas=betas, eps=eps, fused=True)

    def _without_momentum(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if "momentum" not in group]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "momentum" in group:
                for stack in _of_equal_shape(group):
                    self._update(stack, group)
        self._step_adamw()
        return loss

    def _step_adamw(self) -> None:
        """On our groups and state, which are other objects after a checkpoint was loaded."""
        self.adamw.param_groups = self._without_momentum()
        self.adamw.state = self.state
        self.adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self.adamw.step()

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters whose matrices have one shape; their directions are made orthogonal as one stack."""
        first, momentum, lr, blocks = parameters[0], group["momentum"], group["lr"], group["row_blocks"]
        bad = torch.zeros((), device=first.device) if self.found_inf is None else self.found_inf
        good = 1 - bad
        weight, keep = (1 - momentum) * good, 1 - lr * group["weight_decay"] * good
        shape = (len(parameters), *_wide(first, blocks).shape)
        directions = torch.empty(shape, dtype=_fast_dtype(first.device), device=first.device)
        for parameter, direction in zip(parameters, directions, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            gradient.masked_fill_(bad > 0, 0)  # zero times NaN would be NaN
            buffer = self._momentum_of(parameter).lerp_(gradient, weight.to(first.dtype))
            direction.copy_(_wide(gradient.lerp(buffer, momentum), blocks))  # Nesterov's look ahead
        size = lr * RMS_OF_ADAMW * math.sqrt(shape[-1])
        for parameter, update in zip(parameters, orthogonal(directions.mul_(good)), strict=True):
            parameter.mul_(keep)
            _wide(parameter, blocks).add_(update, alpha=-size)

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _wide(tensor: Tensor, row_blocks: int) -> Tensor:
    """A view of the matrices of a parameter, (…, row_blocks, R, C), turned where they had more rows than columns."""
    matrices = tensor.unflatten(-2, (row_blocks, -1))
    return matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices


def orthogonal(matrices: Tensor) -> Tensor:
    """U Vᵀ of the singular value decomposition U S Vᵀ of each matrix (…, R, C), to about a fifth; best where R ≤ C.

    Source: Jordan et al. 2024, Newton–Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    x = matrices.reshape(-1, *matrices.shape[-2:])  # (N, R, C)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.reshape(matrices.shape)


@functools.cache
def _fast_dtype(device: torch.device) -> torch.dtype:
    """Half precision is enough for the iteration, whatever that of the model, but slow where it is emulated."""
    return torch.bfloat16 if pick_precision("auto", device).startswith("bf16") else torch.float32


def _of_equal_shape(group: dict[str, Any]) -> Iterator[list[Tensor]]:
    """A group's parameters with a gradient, in lists whose matrices have one shape and are not too large together."""

    def shape(parameter: Tensor) -> torch.Size:
        return _wide(parameter, group["row_blocks"]).shape

    with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
    for _, equal in itertools.groupby(sorted(with_gradient, key=shape), key=shape):
        same = list(equal)
        length = max(1, STACKED_NUMBERS // same[0].numel())
        yield from (same[start : start + length] for start in range(0, len(same), length))
