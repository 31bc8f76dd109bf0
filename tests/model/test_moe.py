from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from minimind.model.config import Activation, Dispatch, ModelConfig
from minimind.model.losses import expert_load, updated_selection_bias
from minimind.model.mlp import MLP
from minimind.model.moe import DISPATCHERS, Experts, MoE, Router, Routing
from minimind.model.ops.experts import grouped_linear, single_dispatch

E, A = 4, 2


def config(**changes: Any) -> ModelConfig:
    small = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, vocab_size=8)
    moe = dict(num_experts=E, num_experts_per_tok=A, moe_intermediate_size=24)
    return ModelConfig(**{**small, **moe, **changes})


def randomized(module: torch.nn.Module, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.4)
    return module


def no_tokens_for_expert(expert: int, shape: tuple[int, int]) -> Routing:
    scores = torch.rand(*shape, E)
    scores[..., expert] = 0
    weights, indices = scores.topk(A, dim=-1)
    return Routing(scores, scores, indices, weights)


@pytest.mark.parametrize("norm_topk_prob", [True, False])
@pytest.mark.parametrize("dispatch", ["loop", "grouped", "dense"])
def test_block_matches_transformers(dispatch: str, norm_topk_prob: bool) -> None:
    cfg = config(norm_topk_prob=norm_topk_prob, moe_dispatch=dispatch)
    theirs = randomized(
        Qwen3MoeSparseMoeBlock(
            Qwen3MoeConfig(
                hidden_size=16, num_experts=E, num_experts_per_tok=A, moe_intermediate_size=24,
                norm_topk_prob=norm_topk_prob,
            )
        )
    )  # fmt: skip
    ours = MoE(cfg)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 16)
    out, _ = ours(x)
    torch.testing.assert_close(out, theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("empty", [None, 1])
def test_dispatchers_agree_in_outputs_and_gradients(empty: int | None, gated: bool) -> None:
    experts = randomized(Experts(config(gated_mlp=gated)))
    x = torch.randn(2, 9, 16, requires_grad=True)
    routing = no_tokens_for_expert(0 if empty is None else empty, (2, 9))
    routing.weights.requires_grad_()
    inputs = [x, routing.weights, experts.gate_up_proj, experts.down_proj]
    direction = torch.randn(2, 9, 16)
    found = {}
    for kind, dispatch in DISPATCHERS.items():
        experts.dispatch = dispatch
        out = experts(x, routing)
        found[kind] = [out, *torch.autograd.grad(out, inputs, direction)]
    for kind in (Dispatch.grouped, Dispatch.dense):
        for tensor, expected in zip(found[kind], found[Dispatch.loop], strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["loop", "grouped", "dense"])
def test_expert_without_tokens_gets_a_zero_gradient(dispatch: str) -> None:
    experts = randomized(Experts(config(moe_dispatch=dispatch)))
    experts(torch.randn(2, 9, 16), no_tokens_for_expert(1, (2, 9))).square().sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[1].any()
        assert all(parameter.grad[expert].any() for expert in (0, 2, 3))


def test_single_dispatch_matches_the_loop_with_gradients() -> None:
    moe = randomized(MoE(config(moe_dispatch="loop", num_shared_experts=1)))
    for parameter in moe.parameters():
        parameter.requires_grad_()
    token = torch.randn(1, 1, 16, requires_grad=True)
    routing = moe.gate(token)
    found = []
    for dispatch in (DISPATCHERS[Dispatch.loop], single_dispatch):
        out = dispatch(moe.experts, token[0], routing.indices[0], routing.weights[0])
        inputs = [token, moe.gate.weight, *moe.experts.parameters()]
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs, retain_graph=True)])
    for loop, single in zip(*found, strict=True):
        torch.testing.assert_close(single, loop)
    torch.testing.assert_close(moe(token)[0], moe(token.expand(1, 2, -1))[0][:, :1])


@torch.no_grad()
def test_single_token_is_multiplied_only_by_its_own_experts() -> None:
    moe = randomized(MoE(config(moe_dispatch="dense")))
    token = torch.randn(1, 1, 16)
    with FlopCounterMode(display=False) as counter:
        moe.experts(token, moe.gate(token))
    assert counter.get_total_flops() == moe.gate.weight.numel() * 2 + A * 2 * 3 * 16 * 24


@pytest.mark.parametrize("act", list(Activation))
def test_experts_use_the_configured_activation(act: Activation) -> None:
    experts = randomized(Experts(config(hidden_act=act)))
    mlp = MLP(config(hidden_act=act), 24)
    x, first = torch.randn(1, 3, 16), torch.zeros(1, 3, 1, dtype=torch.long)
    gate, up = experts.gate_up_proj[0].chunk(2)
    parts = {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": experts.down_proj[0]}
    mlp.load_state_dict(parts)
    torch.testing.assert_close(experts(x, Routing(x, x, first, torch.ones(1, 3, 1))), mlp(x))


def test_grouped_linear_is_a_linear_layer_per_group() -> None:
    rows = torch.randn(8, 8, requires_grad=True)
    weight = torch.randn(3, 16, 8, requires_grad=True)
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)  # the second group is empty; the last two rows are in no group
    expected = torch.cat((rows[:2] @ weight[0].T, rows[2:6] @ weight[2].T))
    out = grouped_linear(rows, weight, ends)[:6]
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    found = torch.autograd.grad(out, (rows, weight), direction)
    correct = torch.autograd.grad(expected, (rows, weight), direction)
    torch.testing.assert_close(found[0][:6], correct[0][:6])
    torch.testing.assert_close(found[1], correct[1])


def test_rounding_up_groups_for_bf16_changes_nothing() -> None:
    moe = randomized(MoE(config(moe_dispatch="grouped")))
    x = torch.randn(2, 9, 16)
    results = []
    for dispatch in (Dispatch.grouped, Dispatch.dense):
        moe.experts.dispatch = DISPATCHERS[dispatch]
        moe.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = moe(x)
        out.float().square().sum().backward()
        gradients = {name: p.grad for name, p in moe.experts.named_parameters()}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        results.append((out.float(), *gradients.values()))
    for grouped, dense in zip(*results, strict=True):
        torch.testing.assert_close(grouped, dense, rtol=0.05, atol=0.05 * dense.abs().max().item())


def test_shared_experts_are_one_wide_mlp_for_every_token() -> None:
    moe = randomized(MoE(config(num_shared_experts=2)))
    assert moe.shared_experts is not None
    assert moe.shared_experts.up_proj.weight.shape == (48, 16)
    x = torch.randn(2, 5, 16)
    out, routing = moe(x)
    torch.testing.assert_close(out, moe.experts(x, routing) + moe.shared_experts(x))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_router_picks_and_weights_the_likeliest_experts(norm_topk_prob: bool, score: str) -> None:
    router = randomized(Router(config(router_score=score, norm_topk_prob=norm_topk_prob)))
    x = torch.randn(2, 5, 16)
    routing = router(x)
    logits = x @ router.weight.t()
    gates = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    top = gates.topk(A, dim=-1)
    assert torch.equal(routing.indices, top.indices)
    weights = top.values / top.values.sum(-1, keepdim=True) if norm_topk_prob else top.values
    torch.testing.assert_close(routing.weights, weights)
    torch.testing.assert_close(routing.scores.sum(-1), torch.ones(2, 5))


def test_routing_is_float32_under_autocast() -> None:
    router, x = randomized(Router(config())), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x)
    assert routing.logits.dtype is torch.float32
    assert torch.equal(routing.logits, router(x).logits)


@pytest.mark.parametrize("dispatch", ["loop", "grouped", "dense"])
def test_dispatchers_work_under_autocast(dispatch: str) -> None:
    moe = randomized(MoE(config(moe_dispatch=dispatch)))
    x = torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = moe(x)
    torch.testing.assert_close(out.float(), moe(x)[0], rtol=0.05, atol=0.1)


def test_selection_bias_affects_the_choice_but_not_the_weights() -> None:
    router = randomized(Router(config(balance_loss="loss_free")))
    x = torch.randn(2, 5, 16)
    router.selection_bias.copy_(torch.tensor([0.0, 0.0, 5.0, 5.0]))
    routing = router(x)
    assert set(routing.indices.unique().tolist()) == {2, 3}
    chosen = (x @ router.weight.t()).softmax(-1).gather(-1, routing.indices)
    torch.testing.assert_close(routing.weights, chosen / chosen.sum(-1, keepdim=True))


def test_loss_free_balancing_balances_the_load() -> None:
    router = randomized(Router(config(balance_loss="loss_free", num_experts_per_tok=1)))
    x = torch.randn(8, 64, 16) + 0.8  # a common direction, so that most tokens choose one expert

    def busiest() -> tuple[float, Tensor]:
        load = expert_load(router(x).indices, E).sum(dim=0)
        return float(load.max() / load.mean()), load

    before, _ = busiest()
    assert before > 2
    for _ in range(300):
        router.selection_bias.copy_(updated_selection_bias(router.selection_bias, busiest()[1], 0.01))
    assert busiest()[0] < 1.2


def test_auto_dispatch_is_grouped_where_the_sizes_allow() -> None:
    assert Experts(config()).dispatch is DISPATCHERS[Dispatch.grouped]
    assert Experts(config(moe_intermediate_size=20)).dispatch is DISPATCHERS[Dispatch.loop]
