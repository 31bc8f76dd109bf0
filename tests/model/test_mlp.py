import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from minimind.model.config import Activation, ModelConfig
from minimind.model.mlp import MLP

FUNCTIONS = {Activation.silu: F.silu, Activation.gelu: F.gelu, Activation.relu: F.relu}


@pytest.mark.parametrize("act", list(Activation))
def test_gated_mlp_matches_transformers(act: Activation) -> None:
    cfg = ModelConfig(hidden_size=24, num_attention_heads=2, hidden_act=act)
    theirs = LlamaMLP(LlamaConfig(hidden_size=24, num_attention_heads=2, intermediate_size=40, hidden_act=act.value))
    ours = MLP(cfg, 40)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("act", list(Activation))
def test_ungated_mlp_has_two_matrices_and_matches_its_formula(act: Activation) -> None:
    mlp = MLP(ModelConfig(hidden_size=24, num_attention_heads=2, hidden_act=act, gated_mlp=False), 40)
    assert [name for name, _ in mlp.named_parameters()] == ["up_proj.weight", "down_proj.weight"]
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(mlp(x), FUNCTIONS[act](x @ mlp.up_proj.weight.t()) @ mlp.down_proj.weight.t())


def test_linear_layers_have_no_bias() -> None:
    linears = [
        m for m in MLP(ModelConfig(hidden_size=24, num_attention_heads=2), 40).modules() if isinstance(m, nn.Linear)
    ]
    assert len(linears) == 3
    assert all(linear.bias is None for linear in linears)
