"""The quick kernel for a few rows computes what torch's own does, and is asked only where it can be."""

import pytest
import torch
from torch.nn import functional as F

from minimind.model.linear import FEW_ROWS, LARGE_MATRIX, Linear, linear
from minimind.utils.hardware import autocast

O, I = 512, LARGE_MATRIX // 512  # noqa: E741


def kernels(rows: int, weight: torch.Tensor, **how: bool) -> set[str]:
    """Names of the products that torch computes for so many rows."""
    x = torch.randn(1, rows, weight.shape[1])
    precision = autocast("bf16-mixed" if how.get("autocast") else "32-true", x.device)
    with torch.profiler.profile() as profile, torch.set_grad_enabled(how.get("grad", False)), precision:
        linear(x, weight)
    return {event.name for event in profile.events() if event.name in ("mkldnn::_linear_pointwise", "aten::linear")}


@pytest.mark.parametrize("rows", [1, 3, FEW_ROWS])
def test_same_as_torch(rows: int) -> None:
    layer, x = Linear(I, O), torch.randn(1, rows, I)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight), rtol=1e-5, atol=1e-5)


def test_who_gets_the_quick_kernel() -> None:
    weight = torch.randn(O, I)
    assert kernels(1, weight) == kernels(FEW_ROWS, weight) == {"mkldnn::_linear_pointwise"}
    assert kernels(FEW_ROWS + 1, weight) == {"aten::linear"}
    assert kernels(1, weight[:-1]) == {"aten::linear"}
    assert kernels(1, weight, grad=True) == kernels(1, weight, autocast=True) == {"aten::linear"}
