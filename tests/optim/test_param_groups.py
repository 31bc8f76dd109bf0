"""Every parameter is in one group, with the group's learning rate and weight decay."""

from typing import Any

import pytest

from minimind.model.config import ModelConfig, Norm, Position
from minimind.model.transformer import MiniMind
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig, OptimKind

SIZES: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "dense": SIZES,
    "tied, layer norm, learned positions": {**SIZES, "tie_word_embeddings": True, "norm": Norm.layernorm,
                                            "position": Position.learned},
    "moe": {**SIZES, "num_experts": 4, "num_shared_experts": 1, "tie_word_embeddings": False},
}  # fmt: skip
GROUPS = {
    "embed_tokens.weight": "embeddings", "embed_positions.weight": "others", "lm_head.weight": "others",
    "norm.weight": "others", "norm.bias": "others", "q_proj.weight": "matrices", "down_proj.weight": "matrices",
    "mlp.gate.weight": "matrices", "experts.down_proj": "matrices", "experts.gate_up_proj": "gates_above_ups",
}  # fmt: skip


@pytest.mark.parametrize("kind", OptimKind)
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_every_parameter_is_in_one_group_with_its_rate(config: dict[str, Any], kind: OptimKind) -> None:
    cfg = OptimConfig(kind, lr=0.5, matrix_lr_ratio=3.0, embedding_lr_ratio=7.0, weight_decay=0.2,
                      momentum=0.9 if kind is OptimKind.muon else None)  # fmt: skip
    model = MiniMind(ModelConfig(**config))
    groups = build_optimizer(model.named_parameters(), cfg).param_groups
    group_of = {name: group["group"] for group in groups for name in group["param_names"]}
    assert sorted(group_of) == sorted(name for name, _ in model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(group_of)
    for ending, group_name in GROUPS.items():
        assert {group_of[name] for name in group_of if name.endswith(ending)} <= {group_name}, ending
    for group in groups:
        is_matrix = group["group"] in ("matrices", "gates_above_ups")
        rate = 1.5 if is_matrix else {"embeddings": 3.5, "others": 0.5}[group["group"]]
        assert (group["lr"], group["peak_lr"], group["weight_decay"]) == (rate, rate, 0.2 if is_matrix else 0.0)
