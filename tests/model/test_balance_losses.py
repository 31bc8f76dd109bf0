from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from minimind.model.losses import (
    batch_balance_loss,
    expert_load,
    importance_loss,
    router_z_loss,
    sequence_balance_loss,
    updated_selection_bias,
)

E = 6
Loss = Callable[..., Tensor]
LOSSES = [sequence_balance_loss, batch_balance_loss, importance_loss]


def balanced(num_active: int) -> tuple[Tensor, Tensor]:
    """Every expert equally likely and equally often chosen: scores (2, 12, E), indices (2, 12, A)."""
    counter = torch.arange(12)[:, None] * num_active + torch.arange(num_active)
    return torch.full((2, 12, E), 1 / E), (counter % E).expand(2, -1, -1)


def collapsed(num_active: int) -> tuple[Tensor, Tensor]:
    """The first A experts get every token."""
    scores = torch.zeros(2, 12, E)
    scores[..., :num_active] = 1 / num_active
    return scores, torch.arange(num_active).expand(2, 12, -1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_active", [1, 2, 3])
def test_loss_is_one_at_balance_and_e_over_a_at_collapse(num_active: int, loss: Loss) -> None:
    torch.testing.assert_close(loss(*balanced(num_active)), torch.ones(2))
    torch.testing.assert_close(loss(*collapsed(num_active)), torch.full((2,), E / num_active))


def random_routing(num_active: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    logits = 2 * torch.randn(3, 8, E, generator=torch.Generator().manual_seed(seed))
    scores = logits.softmax(-1)
    return logits, scores, scores.topk(num_active, dim=-1).indices


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("num_active", [1, 2, 3])
def test_batch_loss_times_active_experts_matches_transformers(num_active: int, masked: bool) -> None:
    logits, scores, indices = random_routing(num_active)
    mask = torch.rand(3, 8) < 0.7 if masked else None
    theirs = load_balancing_loss_func((logits.flatten(0, 1),), E, num_active, None if mask is None else mask.long())
    ours = batch_balance_loss(scores, indices, mask)
    torch.testing.assert_close(num_active * ours, theirs.expand(3))


def test_transformers_pools_the_tokens_of_all_layers() -> None:
    layers = [random_routing(seed=seed) for seed in (1, 2)]
    theirs = load_balancing_loss_func(tuple(logits.flatten(0, 1) for logits, _, _ in layers), E, 2)
    ours = batch_balance_loss(*(torch.cat([layer[i] for layer in layers], dim=1) for i in (1, 2)))
    torch.testing.assert_close(2 * ours[0], theirs)


def test_sequence_loss_is_per_sequence_and_batch_loss_over_the_whole_batch() -> None:
    _, scores, indices = random_routing()
    alone = torch.cat([sequence_balance_loss(scores[i : i + 1], indices[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(sequence_balance_loss(scores, indices), alone)
    pooled = sequence_balance_loss(scores.flatten(0, 1)[None], indices.flatten(0, 1)[None])
    torch.testing.assert_close(batch_balance_loss(scores, indices), pooled.expand(3))


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_is_ignored(loss: Loss) -> None:
    _, scores, indices = random_routing()
    mask = torch.arange(8).expand(3, -1) < 5
    torch.testing.assert_close(loss(scores, indices, mask), loss(scores[:, :5], indices[:, :5]))
    assert loss(scores, indices, torch.zeros(3, 8, dtype=torch.bool)).isfinite().all()


def test_importance_is_the_papers_squared_variation_plus_one() -> None:
    _, scores, indices = random_routing()
    importance = scores.sum(dim=(0, 1))
    variation = importance.var(correction=0) / importance.mean() ** 2
    torch.testing.assert_close(importance_loss(scores, indices)[0], variation + 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_minimizing_the_loss_balances_the_scores(loss: Loss) -> None:
    logits = random_routing()[0].requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=2.0)
    values = []
    for _ in range(200):
        scores = logits.softmax(-1)
        value = loss(scores, scores.topk(2, dim=-1).indices).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < min(values[0] - 0.02, 1.02)


def test_z_loss_matches_its_formula_and_ignores_padding() -> None:
    logits = random_routing()[0]
    expected = logits.exp().sum(-1).log().square()
    torch.testing.assert_close(router_z_loss(logits), expected.mean(dim=1))
    mask = torch.arange(8).expand(3, -1) < 5
    torch.testing.assert_close(router_z_loss(logits, mask), expected[:, :5].mean(dim=1))


def test_load_counts_the_choices_of_real_tokens() -> None:
    _, indices = balanced(2)
    assert torch.equal(expert_load(indices, E), torch.full((2, E), 4.0))
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 0] = True
    assert expert_load(indices, E, mask).tolist() == [[1.0, 1.0, 0, 0, 0, 0], [0.0] * E]


def test_bias_rises_for_underused_and_falls_for_overused_experts() -> None:
    bias = updated_selection_bias(torch.zeros(4), torch.tensor([9.0, 1.0, 5.0, 5.0]), 0.1)
    torch.testing.assert_close(bias, torch.tensor([-0.1, 0.1, 0.0, 0.0]))
