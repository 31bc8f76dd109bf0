"""Position information: rotary embeddings (RoPE), their context extension YaRN, and sinusoidal embeddings."""

import math

import torch
from torch import Tensor

from minimind.model.config import ModelConfig, YarnConfig
from minimind.model.ops.choice import with_kernels
from minimind.model.ops.rope import rotation_kernel


def inverse_frequencies(cfg: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Rotation in radians per position of each pair of features: (H/2,) float32.

    With `rope_scaling.factor` above 1, YaRN blends the frequencies with those divided by the factor.

    Source: Su et al. 2021, equation 15.
    """
    exponents = torch.arange(0, cfg.resolved_head_dim, 2, dtype=torch.float32, device=device) / cfg.resolved_head_dim
    frequencies = cfg.rope_theta**-exponents
    yarn = cfg.rope_scaling
    if yarn.factor == 1:
        return frequencies
    keep = 1 - yarn_ramp(yarn, cfg, device)
    return frequencies * keep + frequencies / yarn.factor * (1 - keep)


def yarn_ramp(yarn: YarnConfig, cfg: ModelConfig, device: torch.device | None = None) -> Tensor:
    """0 for pairs that rotate often within the trained context and stay unscaled, 1 for those fully scaled: (H/2,).

    Source: Peng et al. 2023, equations 17 to 23, with the bounds rounded to whole pairs as in the authors' code.
    """
    head_dim = cfg.resolved_head_dim

    def pair_index(rotations: float) -> float:
        return head_dim * math.log(cfg.trained_context / (rotations * 2 * math.pi)) / (2 * math.log(cfg.rope_theta))

    low = max(math.floor(pair_index(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_index(yarn.beta_slow)), head_dim - 1)
    width = max(high - low, 0.001)  # as in the authors' code: no division by zero
    return ((torch.arange(head_dim // 2, dtype=torch.float32, device=device) - low) / width).clamp(0, 1)


def attention_factor(yarn: YarnConfig) -> float:
    """Factor on cos and sin that keeps attention equally sharp over the longer context."""
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    return 0.1 * math.log(yarn.factor) + 1


def rotary_table(cfg: ModelConfig, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of every token's angles, (B or 1, 1, T, H) float32, to broadcast against (B, N, T, H).

    Computed for the given positions only and shared by all layers, so no maximum length is built in.
    """
    angles = position_ids[:, None, :, None].float() * inverse_frequencies(cfg, position_ids.device)  # (B, 1, T, H/2)
    angles = torch.cat((angles, angles), dim=-1)  # (B, 1, T, H)
    factor = attention_factor(cfg.rope_scaling)
    return angles.cos() * factor, angles.sin() * factor


@with_kernels(rotation_kernel)
def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pair (x_i, x_{i + H/2}) of each head by its angle; x is (B, N, T, H).

    This is the rotate-half form. The paper pairs neighbours, (x_{2i}, x_{2i+1}), which is the same up to a
    permutation of the rows of the query and key projections.
    """
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * cos + rotated * sin).to(x.dtype)


def sinusoidal_table(position_ids: Tensor, hidden_size: int) -> Tensor:
    """Sinusoidal embedding of Vaswani et al. 2017, section 3.5: (B or 1, T, D) float32, sines then cosines."""
    half = (hidden_size + 1) // 2
    steps = torch.arange(half, dtype=torch.float32, device=position_ids.device)
    frequencies = torch.exp(-math.log(10000.0) * steps / half)
    angles = position_ids[..., None].float() * frequencies  # (B, T, D/2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :hidden_size]
