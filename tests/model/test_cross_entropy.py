"""Our cross-entropy is torch's, in value and gradient, however it is cut into chunks."""

import pytest
import torch
from torch.nn import functional as F

from minimind.model.config import IGNORED
from minimind.model.losses import cross_entropy_sum
from minimind.model.ops import cross_entropy


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("chunk_values", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_torch(
    chunk_values: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_target_of_no_probability_has_a_large_loss_and_not_an_infinite_one() -> None:
    logits = torch.tensor([[[0.0, 500.0, -500.0]]], requires_grad=True)
    loss = cross_entropy_sum(logits, torch.tensor([[2]]))
    assert loss.item() == 1000
    loss.backward()
    assert logits.grad.tolist() == [[[0, 1, -1]]]


def test_nothing_real_is_zero() -> None:
    logits = torch.randn(1, 4, 5, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.full((1, 4), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_without_gradient_none_is_made() -> None:
    with torch.inference_mode():
        logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
        torch.testing.assert_close(cross_entropy_sum(logits, labels), reference(logits, labels))
