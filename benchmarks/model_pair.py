"""Our model and that of transformers, with the same shape and weights, and a training step of each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.data.examples import TokenBatch
from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.interop.families import choose_family, to_huggingface
from minimind.model.config import IGNORED, BalanceLoss, ModelConfig
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig
from minimind.utils.hardware import autocast

# minimind_26m, with QK norm like Qwen3
SHAPE: dict[str, Any] = dict(
    vocab_size=6400, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
    qk_norm=True, balance_loss=BalanceLoss.batch,
)  # fmt: skip
TINY: dict[str, Any] = dict(vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
MOE: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=1)
# with the default initial weights, a model with a tied head keeps repeating one token
VARIED_OUTPUT: dict[str, Any] = dict(initializer_range=0.2, embedding_initializer_range=0.02, residual_init="plain")

Step = Callable[[], Any]


def shape(tiny: bool, **changes: Any) -> ModelConfig:
    return ModelConfig(**{**SHAPE, **(TINY if tiny else {}), **changes})


def tokens(cfg: ModelConfig, num_sequences: int, length: int, device: torch.device) -> Tensor:
    """Random ids, the same in every call: (num_sequences, length)."""
    return torch.randint(cfg.vocab_size, (num_sequences, length), generator=torch.Generator().manual_seed(0)).to(device)


def our_model(cfg: ModelConfig, device: torch.device) -> MiniMind:
    torch.manual_seed(0)
    return MiniMind(cfg).to(device)


def their_model(cfg: ModelConfig, device: torch.device) -> Any:
    """Qwen3ForCausalLM or Qwen3MoeForCausalLM of this shape, with its own initial weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = choose_family(cfg)
    settings = to_huggingface(cfg, family)
    settings["output_router_logits"] = cfg.num_experts > 0  # enables its balance loss
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).to(device).train()


def build_pair(cfg: ModelConfig, device: torch.device) -> tuple[MiniMind, Any]:
    """Both models with the same weights, whose names and shapes are equal in memory, experts included."""
    ours, theirs = our_model(cfg, device), their_model(cfg, device)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def our_loss(model: MiniMind, ids: Tensor) -> Tensor:
    """Mean next-token loss over the targets, as in transformers."""
    loss = next_token_loss(model, TokenBatch(ids, F.pad(ids[:, 1:], (0, 1), value=IGNORED)))
    total = loss.total if loss.auxiliary is None else loss.total + loss.auxiliary
    return total / loss.num_tokens


def their_loss(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def training_step(model: nn.Module, loss: Callable[[Any, Tensor], Tensor], ids: Tensor, precision: str) -> Step:
    """Forward, loss, backward, clipping by norm and fused AdamW, with the same parameter groups for both sides."""
    optimizer = build_optimizer(model.named_parameters(), OptimConfig())
    if ids.device.type == "cuda":
        model.compile()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, ids.device):
            value = loss(model, ids)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def our_greedy(model: MiniMind, prompt: Tensor, new_tokens: int) -> list[int]:
    greedy = SamplingConfig(temperature=0.0)
    return list(generate(model, prompt[0].tolist(), max_new_tokens=new_tokens, sampling=greedy))


def their_greedy(model: Any, prompt: Tensor, new_tokens: int) -> list[int]:
    mask = torch.ones_like(prompt)
    out = model.eval().generate(
        prompt, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return out[0, prompt.shape[1] :].tolist()
