"""Muon compared with torch's implementation, and properties of its updates."""

import io
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minimind.model.config import ModelConfig
from minimind.model.mlp import MLP
from minimind.model.moe import Experts
from minimind.model.transformer import MiniMind
from minimind.optim import muon as muon_module
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig, OptimKind
from minimind.optim.muon import Muon, orthogonalize
from minimind.training.checkpoint import key_optimizer_by_index, key_optimizer_by_name

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
MOE = {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
SETTINGS = OptimConfig(OptimKind.muon, lr=1e-2, matrix_lr_ratio=2.0, momentum=0.9, weight_decay=0.3)


def small_model(config: dict[str, Any] = SIZES) -> MiniMind:
    torch.manual_seed(0)
    return MiniMind(ModelConfig(**config))


def take_steps(parameters: Iterable[nn.Parameter], optimizers: list[Any], steps: int, seed: int = 1) -> None:
    """Take steps with made-up gradients: a common direction plus new noise in each step."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(parameters)
    common = [torch.randn(p.shape, generator=generator) for p in parameters]
    for _ in range(steps):
        for parameter, direction in zip(parameters, common, strict=True):
            parameter.grad = direction + torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def moved(model: nn.Module, start: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() - dict(start.named_parameters())[name].detach() for name, p in model.named_parameters()}


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def test_steps_match_torch() -> None:
    """Matrices match torch.optim.Muon and the rest AdamW, up to bfloat16 rounding."""
    ours, theirs = small_model(), small_model()
    take_steps(ours.parameters(), [build_optimizer(ours.named_parameters(), SETTINGS)], 6)
    groups = {
        group["group"]: group["params"] for group in build_optimizer(theirs.named_parameters(), SETTINGS).param_groups
    }
    matrices, rest = groups.pop("matrices"), [p for parameters in groups.values() for p in parameters]
    references = [
        torch.optim.Muon(matrices, lr=2e-2, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
    ]
    take_steps(theirs.parameters(), references, 6)
    expected = moved(theirs, small_model())
    for name, change in moved(ours, small_model()).items():
        is_matrix = any(expected[name].shape == p.shape for p in matrices)
        assert distance(change, expected[name]) < (0.03 if is_matrix else 1e-5), name


@pytest.mark.parametrize("shape", [(3, 40, 40), (3, 20, 50), (3, 50, 20), (2, 3, 16, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_become_one_and_singular_vectors_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.linspace(1, 0.05, s.shape[-1])
    core = u.mT @ orthogonalize((u * spread @ vt).to(dtype)).float() @ vt.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (core - torch.diag_embed(values)).abs().max() < 0.05


def test_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 8, 4)).float(), torch.zeros(2, 8, 4))


@pytest.mark.parametrize("gated", [True, False])
def test_experts_are_updated_like_dense_mlps(gated: bool) -> None:
    """E stacked experts, gate above up, change like E MLPs with separate parameters."""
    cfg = ModelConfig(**{**MOE, "gated_mlp": gated})  # type: ignore[arg-type]
    experts, mlps = Experts(cfg), nn.ModuleList(MLP(cfg, 48) for _ in range(4))
    with torch.no_grad():
        for number, mlp in enumerate(mlps):
            rows = torch.cat([p for name, p in mlp.named_parameters() if "down" not in name])  # gate, then up
            experts.gate_up_proj[number] = rows
            experts.down_proj[number] = mlp.down_proj.weight
    x = torch.randn(20, 32)
    for module in (experts, mlps):
        optimizer = build_optimizer(
            nn.ModuleDict({"mlp": module, "norm": nn.LayerNorm(2)}).named_parameters(), SETTINGS
        )
        for _ in range(3):
            optimizer.zero_grad()
            total = torch.zeros(())
            for number, mlp in enumerate(mlps):
                hidden = experts.activate(x @ experts.gate_up_proj[number].T)
                out = mlp(x) if module is mlps else hidden @ experts.down_proj[number].T
                total = total + (out - x).square().sum()
            total.backward()
            optimizer.step()
    for number, mlp in enumerate(mlps):
        rows = torch.cat([p for name, p in mlp.named_parameters() if "down" not in name])
        torch.testing.assert_close(experts.gate_up_proj[number], rows, rtol=0, atol=2e-3)
        torch.testing.assert_close(experts.down_proj[number], mlp.down_proj.weight, rtol=0, atol=2e-3)


def test_stack_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked, separate = small_model(MOE), small_model(MOE)
    take_steps(stacked.parameters(), [build_optimizer(stacked.named_parameters(), SETTINGS)], 3)
    monkeypatch.setattr(muon_module, "MAX_STACK_ELEMENTS", 1)
    take_steps(separate.parameters(), [build_optimizer(separate.named_parameters(), SETTINGS)], 3)
    for name, change in moved(separate, small_model(MOE)).items():
        assert distance(change, moved(stacked, small_model(MOE))[name]) < 0.01, name


def test_resumes_from_a_checkpoint_bit_for_bit() -> None:
    """Through the checkpoint's state by parameter name, into groups in another order."""
    whole, resumed = small_model(MOE), small_model(MOE)
    optimizer = build_optimizer(whole.named_parameters(), SETTINGS)
    take_steps(whole.parameters(), [optimizer], 3)
    checkpoint: dict[str, Any] = {"optimizer_states": [optimizer.state_dict()], "weights": whole.state_dict()}
    key_optimizer_by_name(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    take_steps(whole.parameters(), [optimizer], 2, seed=2)
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    resumed.load_state_dict(checkpoint["weights"])
    after = build_optimizer(reversed(list(resumed.named_parameters())), SETTINGS)
    assert isinstance(after, Muon)
    key_optimizer_by_index(checkpoint, after)
    after.load_state_dict(checkpoint["optimizer_states"][0])
    take_steps(resumed.parameters(), [after], 2, seed=2)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
