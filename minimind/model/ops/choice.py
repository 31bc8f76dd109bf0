"""Which kernel computes a formula of the model."""

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
    """Has each call of the decorated formula computed by the kernel that `choose` returns; None: by the formula.

    `choose` takes the arguments of the call, and its kernel takes the same. It goes by shape, dtype, device, processor
    and whether a compiler is tracing, never by whether gradients are recorded: a log-probability must not depend on who
    asks. `inspect.unwrap` gives the formula back.
    """

    def decorate(formula: Kernel[Arguments, Result]) -> Kernel[Arguments, Result]:
        @functools.wraps(formula)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            kernel = choose(*args, **kwargs) or formula
            return kernel(*args, **kwargs)

        return call

    return decorate


def eager_on_cpu(x: Tensor) -> bool:
    """Whether a CPU computes operation by operation; torch.compile makes kernels of its own from the formulas."""
    return x.is_cpu and not torch.compiler.is_compiling()
