"""Muon: updates a matrix by its orthogonalized momentum, whose singular values are all about 1 (Jordan et al. 2024)."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minimind.utils.hardware import pick_precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic that raises singular values to 0.7 … 1.2 in few iterations
ITERATIONS = 5
ADAMW_RMS = 0.2  # typical root mean square of AdamW's update, relative to its learning rate (Liu et al. 2025)
MAX_STACK_ELEMENTS = 2**24  # bounds the memory needed besides weights and momentum


class Muon(torch.optim.Optimizer):
    """Muon for the groups that have a `momentum`, fused AdamW with `betas` and `eps` for the others.

    A parameter may be a stack of matrices (…, rows, columns). In a group with `row_blocks` b, each matrix consists of b
    matrices, one above the other. Each is orthogonalized on its own. Updates are scaled to the size of AdamW's, so
    learning rates are comparable. If `found_inf` is 1, a step changes nothing, without synchronizing with the device.

    Source: Jordan et al. 2024; scale: Liu et al. 2025 ("Muon is scalable for LLM training"), equation 4.
    """

    found_inf: Tensor | None = None  # () 1.0 to skip the step, as for torch's fused optimizers

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"row_blocks": 1})
        self.adamw = torch.optim.AdamW(self._adamw_groups(), betas=betas, eps=eps, fused=True)

    def _adamw_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if "momentum" not in group]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "momentum" in group:
                for stack in _stacks(group):
                    self._update(stack, group)
        self._step_adamw()
        return loss

    def _step_adamw(self) -> None:
        """Point AdamW to this optimizer's groups and state, which loading a checkpoint replaces, and step."""
        self.adamw.param_groups = self._adamw_groups()
        self.adamw.state = self.state
        self.adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self.adamw.step()

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters whose matrices have the same shape; their directions are orthogonalized as one stack."""
        first, momentum, lr, blocks = parameters[0], group["momentum"], group["lr"], group["row_blocks"]
        skipped = torch.zeros((), device=first.device) if self.found_inf is None else self.found_inf
        taken = 1 - skipped
        weight, decay = (1 - momentum) * taken, 1 - lr * group["weight_decay"] * taken
        shape = (len(parameters), *_wide(first, blocks).shape)
        directions = torch.empty(shape, dtype=_iteration_dtype(first.device), device=first.device)
        for parameter, direction in zip(parameters, directions, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            gradient.masked_fill_(skipped > 0, 0)  # zero times NaN would be NaN
            buffer = self._momentum_of(parameter).lerp_(gradient, weight.to(first.dtype))
            direction.copy_(_wide(gradient.lerp(buffer, momentum), blocks))  # Nesterov momentum
        scale = lr * ADAMW_RMS * math.sqrt(shape[-1])
        for parameter, update in zip(parameters, orthogonalize(directions.mul_(taken)), strict=True):
            parameter.mul_(decay)
            _wide(parameter, blocks).add_(update, alpha=-scale)

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _wide(tensor: Tensor, row_blocks: int) -> Tensor:
    """View of a parameter's matrices, (…, row_blocks, R, C), transposed if necessary so that R ≤ C."""
    matrices = tensor.unflatten(-2, (row_blocks, -1))
    return matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ for the SVD U S Vᵀ of each matrix (…, R, C), with singular values in 0.7 … 1.2; fastest if R ≤ C.

    Source: Jordan et al. 2024, Newton–Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    x = matrices.reshape(-1, *matrices.shape[-2:])  # (N, R, C)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # so that no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.reshape(matrices.shape)


@functools.cache
def _iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, which is precise enough for the iteration, or float32 on devices that only emulate bfloat16."""
    return torch.bfloat16 if pick_precision("auto", device).startswith("bf16") else torch.float32


def _stacks(group: dict[str, Any]) -> Iterator[list[Tensor]]:
    """Split a group's parameters with a gradient into lists of equal matrix shape and bounded total size."""

    def shape(parameter: Tensor) -> torch.Size:
        return _wide(parameter, group["row_blocks"]).shape

    with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
    for _, same_shape in itertools.groupby(sorted(with_gradient, key=shape), key=shape):
        parameters = list(same_shape)
        length = max(1, MAX_STACK_ELEMENTS // parameters[0].numel())
        yield from (parameters[start : start + length] for start in range(0, len(parameters), length))
