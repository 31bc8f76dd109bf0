"""Cross-entropy and log-probabilities match torch's in value and gradient, for any chunk size."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minimind.model.config import IGNORED
from minimind.model.losses import cross_entropy_sum, token_log_probs
from minimind.model.ops import cross_entropy


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, 7, 11), and labels of which a third are IGNORED."""
    torch.manual_seed(0)
    labels = torch.randint(11, (3, 7))
    labels[1, 2:] = IGNORED
    labels[2, :2] = IGNORED
    return (5 * torch.randn(3, 7, 11)).to(dtype), labels


def log_probs_reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    real = labels != IGNORED
    return logits.float().log_softmax(-1).gather(-1, labels.where(real, 0)[..., None])[..., 0].where(real, 0)


@pytest.mark.parametrize("chunk_values", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_match_torch(chunk_values: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_VALUES", chunk_values)
    torch.manual_seed(0)
    logits = (5 * torch.randn(3, 7, 11)).to(dtype)
    labels = torch.randint(11, (3, 7))
    labels[1, 2:] = IGNORED
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    one, other = cross_entropy_sum(ours, labels), reference(theirs, labels)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)
    (3 * one).backward()
    (3 * other).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_target_with_zero_probability_has_a_finite_loss() -> None:
    logits = torch.tensor([[[0.0, 500.0, -500.0]]], requires_grad=True)
    loss = cross_entropy_sum(logits, torch.tensor([[2]]))
    assert loss.item() == 1000
    loss.backward()
    assert logits.grad.tolist() == [[[0, 1, -1]]]


def test_loss_without_targets_is_zero() -> None:
    logits = torch.randn(1, 4, 5, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.full((1, 4), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_inference_mode() -> None:
    with torch.inference_mode():
        logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
        torch.testing.assert_close(cross_entropy_sum(logits, labels), reference(logits, labels))


@pytest.mark.parametrize("chunk_values", [1, 30, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_match_log_softmax(chunk_values: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_VALUES", chunk_values)
    logits, labels = example(dtype)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = token_log_probs(ours, labels), log_probs_reference(theirs, labels)
    assert found.dtype is torch.float32
    assert not found[labels == IGNORED].any()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(-found.sum(), cross_entropy_sum(logits, labels), rtol=1e-6, atol=0)
    weights = torch.randn(labels.shape)
    for log_probs in (found, expected):
        (log_probs * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_log_probs_pass_gradcheck() -> None:
    logits, labels = example(torch.float64)
    assert torch.autograd.gradcheck(lambda logits: token_log_probs(logits, labels), logits.requires_grad_())


def test_kernels_match_their_formulas() -> None:
    logits, labels = example(torch.float32)
    for function in (token_log_probs, cross_entropy_sum):
        formula = inspect.unwrap(function)
        assert formula is not function
        torch.testing.assert_close(function(logits, labels), formula(logits, labels), rtol=1e-6, atol=1e-6)


def test_log_probs_of_an_empty_sequence() -> None:
    assert token_log_probs(torch.randn(2, 0, 5), torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)


class LargestFloat32(TorchDispatchMode):
    """Records the number of elements of the largest float32 tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype is torch.float32:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("function", [token_log_probs, cross_entropy_sum], ids=["log_probs", "cross_entropy"])
def test_logits_are_never_in_float32_all_at_once(
    function: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_VALUES", 100)
    logits, labels = example(torch.bfloat16)
    with LargestFloat32() as largest:
        function(logits.requires_grad_(), labels).sum().backward()
    assert 0 < largest.elements <= 100
