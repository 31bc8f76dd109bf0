"""The decorator that chooses which kernel computes a formula of the model."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Kernel = Callable[Arguments, Result]


def with_kernels(
    choose: Callable[Arguments, Kernel[Arguments, Result] | None],
) -> Callable[[Kernel[Arguments, Result]], Kernel[Arguments, Result]]:
    """Decorator: compute each call with the kernel that `choose` returns for its arguments; None: with the formula.

    The kernel takes the same arguments. The choice depends on shape, dtype, device, processor and whether a compiler
    is tracing, never on whether gradients are recorded: training and evaluation must compute the same
    log-probabilities. `inspect.unwrap` returns the formula.
    """

    def decorate(formula: Kernel[Arguments, Result]) -> Kernel[Arguments, Result]:
        @functools.wraps(formula)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            kernel = choose(*args, **kwargs) or formula
            return kernel(*args, **kwargs)

        return call

    return decorate


def eager_on_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU and not being compiled: torch.compile generates its own kernels from the formulas."""
    return x.is_cpu and not torch.compiler.is_compiling()
