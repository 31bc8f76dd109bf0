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
def test_attention_is_causal(kind: str, build: Any) -> None:
    model = build(**KINDS[kind])
    ids, changed = tokens(), tokens()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_parameter_gets_a_gradient(kind: str, build: Any) -> None:
    model = build(**KINDS[kind])
    _, gradients = loss_and_gradients(model, batch_of(tokens(B, T + 1)))
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_packed_documents_match_separate_ones(backend: str, build: Any) -> None:
    model = build(attention_backend=backend)
    first, second = tokens(1, 4, seed=1), tokens(1, 5, seed=2)
    together = model(torch.cat((first, second), dim=1), document_ids=torch.tensor([[0] * 4 + [1] * 5])).logits
    alone = torch.cat((model(first).logits, model(second).logits), dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_padding_does_not_affect_real_tokens(backend: str, build: Any) -> None:
    model = build(attention_backend=backend)
    ids = tokens(1, 5)
    left = torch.cat((tokens(1, 3, seed=5), ids), dim=1)
    real = torch.tensor([[False] * 3 + [True] * 5])
    torch.testing.assert_close(model(left, padding_mask=real).logits[:, 3:], model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_backends_agree_in_loss_and_gradients(kind: str, build: Any) -> None:
    batch = batch_of(tokens(B, T + 1))
    results = [
        loss_and_gradients(build(attention_backend=backend, **KINDS[kind]), batch) for backend in ("eager", "sdpa")
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_only_a_tied_head_shares_the_embedding(build: Any) -> None:
    tied, untied = build(), build(tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert len(list(untied.parameters())) == len(list(tied.parameters())) + 1


def test_device_and_dtype_are_the_weights(build: Any) -> None:
    model = build()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.to("meta", torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("meta"), torch.bfloat16)


@pytest.mark.parametrize("kind", ["plain", "zero", "depth_scaled"])
def test_projections_that_end_residual_branches_start_small(kind: str, build: Any) -> None:
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
def test_model_built_on_meta_is_initialized_identically(kind: str, tiny: Any, build: Any) -> None:
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
def test_gradient_checkpointing_does_not_change_gradients(kind: str, dropout: float, build: Any) -> None:
    batch = batch_of(tokens(B, T + 1))
    switches = {**KINDS[kind], "dropout": dropout, "attention_dropout": dropout}
    results = [
        loss_and_gradients(build(gradient_checkpointing=on, **switches).train(), batch, seed=3) for on in (False, True)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_saves_less_for_the_backward_pass(build: Any) -> None:
    def saved(on: bool) -> int:
        """Number of elements of all tensors saved for the backward pass."""
        model, sizes = build(gradient_checkpointing=on).train(), dict[int, int]()

        def record(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            logits = model(tokens(8, 32)).logits
        assert logits.requires_grad
        return sum(sizes.values())

    assert saved(True) < saved(False) / 2


def test_dropout_follows_the_embedding_and_both_residual_branches(build: Any) -> None:
    model, calls = build(dropout=0.5).train(), []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda _module, inputs, _out: calls.append(inputs[0].shape))
    model(tokens())
    assert calls == [(B, T, 32)] * (1 + 2 * 2)


def test_dropout_is_active_only_in_training(build: Any) -> None:
    model, ids = build(dropout=0.5), tokens()
    torch.testing.assert_close(model(ids).logits, build()(ids).logits)
    assert not torch.allclose(model.train()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_compiles_to_one_graph_without_recompiling(kind: str, dtype: torch.dtype, build: Any) -> None:
    """The backend `aot_eager` traces forward and backward like the default, without minutes of code generation."""
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
            else:  # rounding errors add up in single elements
                assert (gradients[name] - plain).norm() <= 0.05 * plain.norm(), name
    torch.compiler.reset()


class HostSynchronization(AssertionError):
    pass


SYNC_OPS = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique",
    "bincount",
    "equal.",
    "item",
)


class NoHostSynchronization(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in SYNC_OPS):
            raise HostSynchronization(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_synchronization() -> Iterator[None]:
    with NoHostSynchronization():
        yield


@pytest.mark.parametrize("kind", list(KINDS))
def test_training_step_does_not_synchronize(kind: str, build: Any) -> None:
    dispatch = {"moe_dispatch": "grouped"} if "num_experts" in KINDS[kind] else {}
    model = build(**KINDS[kind], **dispatch, router_z_loss_coef=0.1).train()
    batch = batch_of(tokens(B, T + 1))
    with no_host_synchronization():
        loss_and_gradients(model, batch)


def test_loop_dispatch_is_detected_as_synchronizing(build: Any) -> None:
    model = build(**MOE, moe_dispatch="loop")
    with pytest.raises(HostSynchronization), no_host_synchronization():
        loss_and_gradients(model, batch_of(tokens(B, T + 1)))


@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_model_runs_in_bfloat16(kind: str, build: Any) -> None:
    model = build(initializer_range=0.1, **KINDS[kind])
    expected = model(tokens()).logits
    logits = model.bfloat16()(tokens()).logits
    assert logits.dtype is torch.bfloat16
    assert (logits.float() - expected).norm() < 0.1 * expected.norm()


@torch.no_grad()
def test_without_positions_the_order_of_earlier_tokens_does_not_matter(build: Any) -> None:
    ids, flipped = tokens(1, T), tokens(1, T)
    flipped[:, : T - 1] = flipped[:, : T - 1].flip(1)
    for position in ("none", "rope", "learned", "sinusoidal"):
        model = build(num_hidden_layers=1, position=position)  # with more, the causal mask reveals the order
        same = torch.allclose(model(ids).logits[:, -1], model(flipped).logits[:, -1], atol=1e-4)
        assert same == (position == "none"), position


@torch.no_grad()
def test_sinusoidal_positions_are_added_to_the_embedding(build: Any) -> None:
    model, seen = build(position="sinusoidal"), []
    model.model.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    ids = tokens(1, 4)
    model(ids)
    table = sinusoidal_table(torch.arange(4)[None], 32)
    torch.testing.assert_close(seen, [model.model.embed_tokens(ids) + table])


@torch.no_grad()
def test_embedding_initializer_range(build: Any) -> None:
    model = build(hidden_size=128, embedding_initializer_range=1.0, tie_word_embeddings=False)
    assert float(model.model.embed_tokens.weight.std()) == pytest.approx(1.0, rel=0.1)
    assert float(model.lm_head.weight.std()) == pytest.approx(0.3, rel=0.1)


@torch.no_grad()
def test_decoding_does_not_synchronize(build: Any) -> None:
    """Of a dense model; on a CPU, an MoE model reads which experts were chosen."""
    model = build()
    cache = KVCache(model.config, B, 16)
    with no_host_synchronization():
        for chunk in (tokens(B, 3), tokens(B, 1), tokens(B, 1)):
            model(chunk, cache=cache)
            cache.advance(chunk.shape[1])


def test_yarn_does_not_change_the_weights(build: Any) -> None:
    plain, extended = build(), build(seed=1, rope_scaling=YarnConfig(8.0))
    extended.load_state_dict(plain.state_dict())
    ids = tokens(1, 100)
    assert not torch.allclose(plain(ids).logits, extended(ids).logits)
    assert plain.state_dict().keys() == extended.state_dict().keys()


def test_expert_load_is_in_the_metrics(build: Any) -> None:
    load, _ = next_token_loss(build(**MOE), batch_of(tokens(B, T + 1))).metrics["moe/load"]
    assert load.shape == (2, 4)
    assert load.sum(dim=1).tolist() == [B * T * 2.0] * 2


@pytest.mark.parametrize("kind", ["sequence", "batch", "importance", "none", "loss_free"])
def test_auxiliary_loss_is_the_configured_one(kind: str, build: Any) -> None:
    model, batch = (
        build(**MOE, balance_loss=kind, router_aux_loss_coef=0.3, router_z_loss_coef=0.02),
        batch_of(tokens()),
    )
    routings, weights = model(batch.input_ids).routings, torch.full((B,), float(T - 1))  # targets per sequence
    real = torch.ones(B, T - 1, dtype=torch.bool)
    measure = {
        "sequence": losses.sequence_balance_loss, "batch": losses.batch_balance_loss,
        "importance": losses.importance_loss,
    }.get(kind)  # fmt: skip
    expected = sum(0.02 * losses.router_z_loss(routing.logits, real) @ weights for routing in routings)
    if measure is not None:
        expected += sum(0.3 * measure(routing.scores, routing.indices, real) @ weights for routing in routings)
    torch.testing.assert_close(next_token_loss(model, batch).auxiliary, expected)


def test_parameter_names_match_transformers(build: Any) -> None:
    names = dict(build(**MOE, qk_norm=True, tie_word_embeddings=False).named_parameters())
    layer_names = {name.removeprefix("model.layers.1.") for name in names if name.startswith("model.layers.1.")}
    assert layer_names == {
        "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight",
        "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight", "self_attn.q_norm.weight",
        "self_attn.k_norm.weight", "mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
    }  # fmt: skip
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(names)


GREEDY = SamplingConfig(temperature=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_greedy_decoding_matches_full_forward_passes(kind: str, build: Any) -> None:
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
        ([1] * 64, "shorter than the context of 64 tokens, but has 64; shorten it, or extend"),
    ],
)
def test_invalid_prompt_raises(prompt: list[int], words: str, build: Any) -> None:
    with pytest.raises(UserError, match=words):
        list(generate(build(), prompt, max_new_tokens=3, sampling=GREEDY))


@pytest.mark.parametrize("token", [31, -1])
def test_out_of_vocabulary_id_raises(token: int, build: Any) -> None:
    with pytest.raises(UserError, match=f"from 0 to 30 .* but one is {token}; encode"):
        build()(torch.tensor([[1, token]]))


def test_yarn_allows_longer_prompts(build: Any) -> None:
    model = build(rope_scaling=YarnConfig(2.0))
    assert len(list(generate(model, [1] * 64, max_new_tokens=3, sampling=GREEDY))) == 3
    model.set_rope_scaling(YarnConfig(1.0))
    with pytest.raises(UserError, match="--yarn"):
        list(generate(model, [1] * 64, max_new_tokens=3, sampling=GREEDY))


def test_sequence_longer_than_learned_positions_raises(build: Any) -> None:
    with pytest.raises(UserError, match=r"`max_position_embeddings` \(64\) tokens, but has 65; shorten it"):
        build(position="learned")(tokens(1, 65))
