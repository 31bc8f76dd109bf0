from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimind.data.examples import TokenBatch
from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.model import losses
from minimind.model.config import YarnConfig
from minimind.model.kv_cache import KVCache
from minimind.model.rope import sinusoidal_table
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.utils.errors import UserError

V, B, T = 31, 2, 9
MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "qwen3": {"qk_norm": True, "tie_word_embeddings": False},
    "moe": MOE,
    "shared, sigmoid, loss-free": {
        **MOE, "num_shared_experts": 1, "router_score": "sigmoid", "balance_loss": "loss_free",
    },
    "moe in half the layers": {**MOE, "decoder_sparse_step": 2},
    "layernorm, ungated gelu, learned": {
        "norm": "layernorm", "gated_mlp": False, "hidden_act": "gelu", "position": "learned",
    },
    "no positions, multi-query": {"position": "none", "num_key_value_heads": 1},
}  # fmt: skip


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(V, shape or (B, T), generator=torch.Generator().manual_seed(seed))


def batch_of(ids: Tensor) -> TokenBatch:
    return TokenBatch(ids[:, :-1], ids[:, 1:])


def loss_and_gradients(model: MiniMind, batch: TokenBatch, *, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    found = next_token_loss(model, batch)
    total = found.total if found.auxiliary is None else found.total + found.auxiliary
    total.backward()
    return total.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_token_sees_a_later_one(kind: str, build: Any) -> None:
    model = build(**KINDS[kind])
    ids, changed = tokens(), tokens()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_parameter_learns(kind: str, build: Any) -> None:
    model = build(**KINDS[kind])
    _, gradients = loss_and_gradients(model, batch_of(tokens(B, T + 1)))
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_packed_documents_are_as_if_alone(backend: str, build: Any) -> None:
    model = build(attention_backend=backend)
    first, second = tokens(1, 4, seed=1), tokens(1, 5, seed=2)
    together = model(torch.cat((first, second), dim=1), document_ids=torch.tensor([[0] * 4 + [1] * 5])).logits
    alone = torch.cat((model(first).logits, model(second).logits), dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_padding_changes_nothing_for_the_real_tokens(backend: str, build: Any) -> None:
    model = build(attention_backend=backend)
    ids = tokens(1, 5)
    left = torch.cat((tokens(1, 3, seed=5), ids), dim=1)
    real = torch.tensor([[False] * 3 + [True] * 5])
    torch.testing.assert_close(model(left, padding_mask=real).logits[:, 3:], model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_back_ends_agree_in_loss_and_gradients(kind: str, build: Any) -> None:
    batch = batch_of(tokens(B, T + 1))
    results = [
        loss_and_gradients(build(attention_backend=backend, **KINDS[kind]), batch) for backend in ("eager", "sdpa")
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not(build: Any) -> None:
    tied, untied = build(), build(tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert len(list(untied.parameters())) == len(list(tied.parameters())) + 1


def test_device_and_dtype_are_those_of_the_weights(build: Any) -> None:
    model = build()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.to("meta", torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("meta"), torch.bfloat16)


@pytest.mark.parametrize("kind", ["plain", "zero", "depth_scaled"])
def test_what_ends_a_residual_branch_starts_small(kind: str, build: Any) -> None:
    model = build(
        hidden_size=128, intermediate_size=256, num_hidden_layers=8, initializer_range=0.02, residual_init=kind, **MOE
    )
    expected = {"plain": 0.02, "zero": 0.0, "depth_scaled": 0.02 / 4}[kind]  # √(2 · 8) = 4
    for name, parameter in model.state_dict().items():
        if name.endswith(("o_proj.weight", "down_proj")):
            assert float(parameter.std()) == pytest.approx(expected, rel=0.1), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.15), name


@pytest.mark.parametrize("kind", list(KINDS))
def test_built_on_meta_and_initialised_afterwards_it_is_the_same(kind: str, tiny: Any, build: Any) -> None:
    with torch.device("meta"):
        model = MiniMind(tiny(**KINDS[kind]))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model.to_empty(device="cpu")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
    direct = build(**KINDS[kind])
    for each in (model, direct):
        torch.manual_seed(0)
        each.init_weights()
    torch.testing.assert_close(dict(model.state_dict()), dict(direct.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, dropout: float, build: Any) -> None:
    batch = batch_of(tokens(B, T + 1))
    switches = {**KINDS[kind], "dropout": dropout, "attention_dropout": dropout}
    results = [
        loss_and_gradients(build(gradient_checkpointing=on, **switches).train(), batch, seed=3) for on in (False, True)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_keeps_less_for_the_backward_pass(build: Any) -> None:
    def kept(on: bool) -> int:
        """Numbers of all tensors that the graph of a loss holds."""
        model, sizes = build(gradient_checkpointing=on).train(), dict[int, int]()

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = model(tokens(8, 32)).logits
        assert logits.requires_grad
        return sum(sizes.values())

    assert kept(True) < kept(False) / 2


def test_dropout_stands_after_the_embedding_and_after_both_halves_of_a_block(build: Any) -> None:
    model, calls = build(dropout=0.5).train(), []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda _module, inputs, _out: calls.append(inputs[0].shape))
    model(tokens())
    assert calls == [(B, T, 32)] * (1 + 2 * 2)


def test_dropout_acts_in_training_only(build: Any) -> None:
    model, ids = build(dropout=0.5), tokens()
    torch.testing.assert_close(model(ids).logits, build()(ids).logits)
    assert not torch.allclose(model.train()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_compiles_whole_and_once(kind: str, dtype: torch.dtype, build: Any) -> None:
    """The back-end `aot_eager` traces forward and backward as the default does, without minutes of code generation."""
    torch.compiler.reset()
    model = build(hidden_size=16, num_hidden_layers=1, num_key_value_heads=4, **KINDS[kind])
    batches = [batch_of(tokens(B, T + 1, seed=seed)) for seed in range(3)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        expected = [loss_and_gradients(model, batch) for batch in batches]
        model.compile(fullgraph=True, backend="aot_eager")
        with torch.compiler.set_stance("default"):
            found = [loss_and_gradients(model, batches[0])]
        with torch.compiler.set_stance("fail_on_recompile"):
            found += [loss_and_gradients(model, batch) for batch in batches[1:]]
    for (loss, gradients), (plain_loss, plain_gradients) in zip(found, expected, strict=True):
        torch.testing.assert_close(loss, plain_loss, rtol=1e-4 if dtype is torch.float32 else 1e-2, atol=0)
        for name, plain in plain_gradients.items():
            if dtype is torch.float32:
                torch.testing.assert_close(gradients[name], plain, rtol=1e-4, atol=1e-4, msg=name)
            else:  # single elements are sums of many roundings
                assert (gradients[name] - plain).norm() <= 0.05 * plain.norm(), name
    torch.compiler.reset()


class WaitsForTheDevice(AssertionError):
    pass


WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "bincount", "equal.", "item")


class NoHostSynchronisation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in WAITING):
            raise WaitsForTheDevice(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_synchronisation() -> Iterator[None]:
    with NoHostSynchronisation():
        yield


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_training_step_never_waits_for_the_device(kind: str, build: Any) -> None:
    dispatch = {"moe_dispatch": "grouped"} if "num_experts" in KINDS[kind] else {}
    model = build(**KINDS[kind], **dispatch, router_z_loss_coef=0.1).train()
    batch = batch_of(tokens(B, T + 1))
    with no_host_synchronisation():
        loss_and_gradients(model, batch)


def test_the_loop_would_be_caught_waiting(build: Any) -> None:
    model = build(**MOE, moe_dispatch="loop")
    with pytest.raises(WaitsForTheDevice), no_host_synchronisation():
        loss_and_gradients(model, batch_of(tokens(B, T + 1)))


@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_the_whole_model_runs_in_bfloat16(kind: str, build: Any) -> None:
    model = build(initializer_range=0.1, **KINDS[kind])
    expected = model(tokens()).logits
    logits = model.bfloat16()(tokens()).logits
    assert logits.dtype is torch.bfloat16
    assert (logits.float() - expected).norm() < 0.1 * expected.norm()


@torch.no_grad()
def test_without_positions_the_order_of_what_came_before_means_nothing(build: Any) -> None:
    ids, turned = tokens(1, T), tokens(1, T)
    turned[:, : T - 1] = turned[:, : T - 1].flip(1)
    for position in ("none", "rope", "learned", "sinusoidal"):
        model = build(num_hidden_layers=1, position=position)  # in a second layer the mask itself would tell
        same = torch.allclose(model(ids).logits[:, -1], model(turned).logits[:, -1], atol=1e-4)
        assert same == (position == "none"), position


@torch.no_grad()
def test_sinusoids_are_added_to_the_embedding(build: Any) -> None:
    model, seen = build(position="sinusoidal"), []
    model.model.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    ids = tokens(1, 4)
    model(ids)
    table = sinusoidal_table(torch.arange(4)[None], 32)
    torch.testing.assert_close(seen, [model.model.embed_tokens(ids) + table])


@torch.no_grad()
def test_embeddings_may_begin_with_a_range_of_their_own(build: Any) -> None:
    model = build(hidden_size=128, embedding_initializer_range=1.0, tie_word_embeddings=False)
    assert float(model.model.embed_tokens.weight.std()) == pytest.approx(1.0, rel=0.1)
    assert float(model.lm_head.weight.std()) == pytest.approx(0.3, rel=0.1)


@torch.no_grad()
def test_writing_from_the_cache_never_waits_for_the_device(build: Any) -> None:
    """On a CPU a mixture looks which experts were chosen; elsewhere it does not."""
    model = build()
    cache = KVCache(model.config, B, 16)
    with no_host_synchronisation():
        for chunk in (tokens(B, 3), tokens(B, 1), tokens(B, 1)):
            model(chunk, cache=cache)
            cache.advance(chunk.shape[1])


def test_yarn_is_switched_on_without_touching_the_weights(build: Any) -> None:
    plain, stretched = build(), build(seed=1, rope_scaling=YarnConfig(8.0))
    stretched.load_state_dict(plain.state_dict())
    ids = tokens(1, 100)
    assert not torch.allclose(plain(ids).logits, stretched(ids).logits)
    assert plain.state_dict().keys() == stretched.state_dict().keys()


def test_experts_in_use_are_observable(build: Any) -> None:
    load, _ = next_token_loss(build(**MOE), batch_of(tokens(B, T + 1))).metrics["moe/load"]
    assert load.shape == (2, 4)
    assert load.sum(dim=1).tolist() == [B * T * 2.0] * 2


@pytest.mark.parametrize("kind", ["sequence", "batch", "importance", "none", "loss_free"])
def test_the_auxiliary_loss_is_what_the_configuration_asks_for(kind: str, build: Any) -> None:
    model, batch = (
        build(**MOE, balance_loss=kind, router_aux_loss_coef=0.3, router_z_loss_coef=0.02),
        batch_of(tokens()),
    )
    routings, rows = model(batch.input_ids).routings, torch.full((B,), float(T - 1))  # each weighs as its targets
    real = torch.ones(B, T - 1, dtype=torch.bool)
    measure = {
        "sequence": losses.sequence_balance_loss, "batch": losses.batch_balance_loss,
        "importance": losses.importance_loss,
    }.get(kind)  # fmt: skip
    expected = sum(0.02 * losses.router_z_loss(routing.logits, real) @ rows for routing in routings)
    if measure is not None:
        expected += sum(0.3 * measure(routing.scores, routing.indices, real) @ rows for routing in routings)
    torch.testing.assert_close(next_token_loss(model, batch).auxiliary, expected)


def test_names_are_those_of_transformers(build: Any) -> None:
    names = dict(build(**MOE, qk_norm=True, tie_word_embeddings=False).named_parameters())
    in_a_layer = {name.removeprefix("model.layers.1.") for name in names if name.startswith("model.layers.1.")}
    assert in_a_layer == {
        "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight",
        "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight", "self_attn.q_norm.weight",
        "self_attn.k_norm.weight", "mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
    }  # fmt: skip
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(names)


GREEDY = SamplingConfig(temperature=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_greedy_decoding_from_the_cache_is_that_of_the_whole_text(kind: str, build: Any) -> None:
    model = build(**KINDS[kind])
    prompt = tokens(5).tolist()
    text = list(prompt)
    for _ in range(6):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    assert list(generate(model, prompt, max_new_tokens=6, sampling=GREEDY)) == text[5:]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "at least one token, but is empty; give some text"),
        ([1, 31, 2], "must be from 0 to 30 .* but the prompt has 31; encode"),
        ([1, -3], "but the prompt has -3"),
        ([1] * 64, "shorter than the context of 64 tokens, but has 64; shorten it, or stretch"),
    ],
)
def test_a_bad_prompt_is_refused_by_name(prompt: list[int], words: str, build: Any) -> None:
    with pytest.raises(UserError, match=words):
        list(generate(build(), prompt, max_new_tokens=3, sampling=GREEDY))


@pytest.mark.parametrize("stranger", [31, -1])
def test_an_id_outside_the_vocabulary_is_named(stranger: int, build: Any) -> None:
    with pytest.raises(UserError, match=f"from 0 to 30 .* but one is {stranger}; encode"):
        build()(torch.tensor([[1, stranger]]))


def test_yarn_makes_room_for_a_longer_prompt(build: Any) -> None:
    model = build(rope_scaling=YarnConfig(2.0))
    assert len(list(generate(model, [1] * 64, max_new_tokens=3, sampling=GREEDY))) == 3
    model.set_rope_scaling(YarnConfig(1.0))
    with pytest.raises(UserError, match="--yarn"):
        list(generate(model, [1] * 64, max_new_tokens=3, sampling=GREEDY))


def test_learned_positions_end_where_they_end(build: Any) -> None:
    with pytest.raises(UserError, match=r"`max_position_embeddings` \(64 tokens\), but has 65; shorten it"):
        build(position="learned")(tokens(1, 65))
