"""The feed-forward network of a block."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import Activation, ModelConfig
from minimind.model.linear import Linear, to_matmul_dtype

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.silu: F.silu,
    Activation.gelu: F.gelu,
    Activation.relu: F.relu,
}


class MLP(nn.Module):
    """down(act(gate(x)) · up(x)), which is SwiGLU for silu (Shazeer 2020, equation 6); ungated: down(act(up(x)))."""

    def __init__(self, cfg: ModelConfig, intermediate_size: int) -> None:
        super().__init__()
        self.act = ACTIVATIONS[cfg.hidden_act]
        self.gate_proj = Linear(cfg.hidden_size, intermediate_size) if cfg.gated_mlp else None
        self.up_proj = Linear(cfg.hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, cfg.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = to_matmul_dtype(x)
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x)))
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))  # (B, T, F) → (B, T, D)
