"""oneDNN computes what torch's BLAS does, gradients included, and is asked only where it is quicker."""

import pytest
import torch
from torch.nn import functional as F

from minimind.model.linear import Linear, linear
from minimind.utils import cpu
from minimind.utils.cpu import FEW_ROWS, LARGE_MATRIX
from minimind.utils.hardware import autocast, peak_flops

OUT, IN = 512, LARGE_MATRIX // 512
ONEDNN, TORCH = {"mkldnn::_linear_pointwise"}, {"aten::linear"}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="This torch has no oneDNN")


def kernels(rows: int, weight: torch.Tensor, *, grad: bool = False, precision: str = "32-true") -> set[str]:
    """Which of the two products torch computes for so many rows."""
    x = torch.randn(1, rows, weight.shape[1])
    with torch.profiler.profile() as profile, torch.set_grad_enabled(grad), autocast(precision, x.device):
        linear(x, weight)
    return {event.name for event in profile.events()} & (ONEDNN | TORCH)


@pytest.fixture(params=[True, False], ids=["slow MKL", "quick BLAS"])
def mkl_is_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(cpu, "mkl_is_slow", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(IN,), (1, IN), (2, 3, IN), (FEW_ROWS, IN), (2, 40, IN), (0, IN)], ids=str)
def test_same_as_torch_with_gradients(shape: tuple[int, ...], mkl_is_slow: bool) -> None:
    layer, x = Linear(IN, OUT), torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], OUT)
    for wanted in ((x, layer.weight), (x,), (layer.weight,)):
        for parameter in (x, layer.weight):
            parameter.requires_grad_(any(parameter is one for one in wanted))
        found = torch.autograd.grad(layer(x), wanted, upstream)
        expected = torch.autograd.grad(F.linear(x, layer.weight), wanted, upstream)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight), rtol=1e-5, atol=1e-5)


def test_who_gets_onednn(mkl_is_slow: bool) -> None:
    large, small = torch.randn(OUT, IN), torch.randn(OUT - 1, IN)
    assert kernels(1, large) == kernels(FEW_ROWS, large) == kernels(1, large, grad=True) == ONEDNN
    assert kernels(1, small) == kernels(1, large, precision="bf16-mixed") == TORCH
    assert kernels(FEW_ROWS + 1, large) == kernels(FEW_ROWS + 1, small) == (ONEDNN if mkl_is_slow else TORCH)


def test_a_wrong_width_is_told_as_torch_tells_it(mkl_is_slow: bool) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(1, IN + 1), torch.randn(OUT, IN))


def test_the_compiler_sees_one_graph(mkl_is_slow: bool) -> None:
    layer = torch.compile(Linear(IN, OUT), fullgraph=True, backend="eager")
    assert layer(torch.randn(FEW_ROWS + 1, IN)).shape == (FEW_ROWS + 1, OUT)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_rate_of_a_processor(precision: str, mkl_is_slow: bool) -> None:
    peak_flops.cache_clear()
    rate = peak_flops(torch.device("cpu"), precision)
    peak_flops.cache_clear()
    assert rate is not None
    assert rate > 1e8
