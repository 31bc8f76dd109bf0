"""Every kernel of the linear layer matches torch, gradients included, and the fastest one is chosen."""

import pytest
import torch
from torch.nn import functional as F

from minimind.model.linear import Linear, linear
from minimind.model.ops import linear as ops
from minimind.model.ops.linear import FEW_ROWS, LARGE_MATRIX, MUCH_WORK
from minimind.utils.hardware import autocast, peak_flops

MANY_ROWS = FEW_ROWS + 1
OUT, IN = 512, MUCH_WORK // 512 // 4
ONEDNN, TORCH, BLOCKS = {"mkldnn::_linear_pointwise"}, {"aten::linear"}, {"aten::bmm"}

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()),
    reason="This torch lacks oneDNN or MKL",
)


def kernels(rows: int, weight: torch.Tensor, *, grad: bool = False, precision: str = "32-true") -> set[str]:
    """Which of the three kernels computes a product of `rows` rows."""
    x = torch.randn(1, rows, weight.shape[1])
    with torch.profiler.profile() as profile, torch.set_grad_enabled(grad), autocast(precision, x.device):
        linear(x, weight)
    return {event.name for event in profile.events()} & (ONEDNN | TORCH | BLOCKS)


@pytest.fixture(params=[True, False], ids=["slow MKL", "fast BLAS"])
def mkl_is_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(ops, "mkl_is_slow", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(IN,), (1, IN), (2, 3, IN), (FEW_ROWS, IN), (2, 40, IN), (0, IN)], ids=str)
@pytest.mark.parametrize("out", [OUT, OUT - 1, OUT - 2])
def test_matches_torch_with_gradients(shape: tuple[int, ...], out: int, mkl_is_slow: bool) -> None:
    layer, x = Linear(IN, out), torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], out)
    expected = F.linear(x, layer.weight)
    for inputs in ((x, layer.weight), (x,), (layer.weight,)):
        for parameter in (x, layer.weight):
            parameter.requires_grad_(any(parameter is one for one in inputs))
        found = torch.autograd.grad(layer(x), inputs, upstream)
        gradients = torch.autograd.grad(F.linear(x, layer.weight), inputs, upstream)
        torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()


def test_which_kernel_is_chosen(mkl_is_slow: bool) -> None:
    large, small = torch.randn(OUT, IN), torch.randn(OUT, LARGE_MATRIX // OUT - 1)
    assert kernels(1, large) == kernels(FEW_ROWS, large) == kernels(1, large, grad=True) == BLOCKS
    assert kernels(1, small) == kernels(1, large, precision="bf16-mixed") == TORCH
    many_rows = ONEDNN if mkl_is_slow else TORCH
    assert kernels(MANY_ROWS, large) == kernels(MANY_ROWS, large, grad=True) == many_rows
    assert kernels(MANY_ROWS, small) == TORCH


def test_wrong_width_raises_torchs_error(mkl_is_slow: bool) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(1, IN + 1), torch.randn(OUT, IN))


def test_compiles_to_one_graph(mkl_is_slow: bool) -> None:
    layer = torch.compile(Linear(IN, OUT), fullgraph=True, backend="eager")
    for rows in (1, MANY_ROWS):
        assert layer(torch.randn(rows, IN)).shape == (rows, OUT)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_measured_peak_flops_of_a_cpu(precision: str, mkl_is_slow: bool) -> None:
    peak_flops.cache_clear()
    rate = peak_flops(torch.device("cpu"), precision, linear)
    peak_flops.cache_clear()
    assert rate is not None
    assert rate > 1e8
