import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from minimind.model.config import Norm
from minimind.model.norm import LayerNorm, RMSNorm, build_norm
from minimind.model.ops.norm import FEW_VALUES

EPS = 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rmsnorm_matches_transformers(dtype: torch.dtype) -> None:
    ours, theirs = RMSNorm(24, EPS).to(dtype), LlamaRMSNorm(24, EPS).to(dtype)
    theirs.weight.data.normal_()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, 24, dtype=dtype)
    assert ours(x).dtype is dtype
    tolerance = 1e-6 if dtype is torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(ours(x), theirs(x), rtol=tolerance, atol=tolerance)


def test_rmsnorm_matches_its_formula_and_has_unit_mean_square() -> None:
    x = 7 * torch.randn(4, 64, dtype=torch.float64).float()
    normed = RMSNorm(64, 0.0)(x)
    torch.testing.assert_close(normed, x / x.square().mean(-1, keepdim=True).sqrt())
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(4))


@pytest.mark.parametrize("factor", [1e-3, 0.5, 3e4])
def test_rmsnorm_is_invariant_to_the_scale_of_its_input(factor: float) -> None:
    x = torch.randn(4, 64)
    norm = RMSNorm(64, 0.0)
    torch.testing.assert_close(norm(factor * x), norm(x))


@pytest.mark.parametrize("kind", list(Norm))
def test_statistics_are_float32_so_that_squares_do_not_overflow(kind: Norm) -> None:
    x = torch.full((2, 64), 3e4, dtype=torch.float16)  # its square is beyond float16
    x[:, ::2] *= -1
    normed = build_norm(kind, 64, EPS)(x)
    assert normed.dtype is torch.float16
    torch.testing.assert_close(normed, x.sign())


def test_the_weight_is_applied_in_the_input_dtype() -> None:
    norm = RMSNorm(16, EPS)
    norm.weight.data.normal_()
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    plain = F.rms_norm(x.float(), (16,), eps=EPS).bfloat16()
    assert torch.equal(norm(x), plain * norm.weight.bfloat16())


def test_layernorm_is_torchs_in_float32_and_removes_the_mean() -> None:
    norm = build_norm(Norm.layernorm, 32, EPS)
    assert isinstance(norm, LayerNorm)
    x = torch.randn(4, 32) + 5
    torch.testing.assert_close(norm(x), F.layer_norm(x, (32,), eps=EPS))
    assert norm(x).mean(-1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_gradient_matches_autograd(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(24, EPS)
    norm.weight.data.normal_()
    shape = (3, FEW_VALUES // 24, 24)
    x, direction = torch.randn(shape, dtype=dtype, requires_grad=True), torch.randn(shape, dtype=dtype)
    inputs = [x, norm.weight]
    plain = F.rms_norm(x.float(), (24,), eps=EPS).to(dtype) * norm.weight.to(dtype)
    written = norm(x)
    assert "FusedRMSNorm" in type(written.grad_fn).__name__
    assert torch.equal(written, plain)
    expected = torch.autograd.grad(plain, inputs, direction)
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    for found, correct in zip(torch.autograd.grad(written, inputs, direction), expected, strict=True):
        torch.testing.assert_close(found, correct, rtol=tolerance, atol=tolerance)
