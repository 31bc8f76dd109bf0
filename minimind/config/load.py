"""A trained model back from its checkpoint; no Lightning needed."""

from pathlib import Path

import torch

from minimind.config.schema import load_stored
from minimind.model.config import ModelConfig
from minimind.model.transformer import MiniMind
from minimind.runs.checkpoints import CONFIG, TOKENIZER, verified
from minimind.tokenizer.bpe import BPE
from minimind.training.checkpoint import load_weights


def load_model(checkpoint: Path, device: torch.device) -> tuple[MiniMind, BPE]:
    """The model in evaluation mode, float32, and its tokenizer.

    Raises:
        UserError: something is missing, damaged or does not fit.
    """
    from omegaconf import OmegaConf

    cfg = OmegaConf.to_object(load_stored(verified(checkpoint) / CONFIG).model)
    assert isinstance(cfg, ModelConfig)
    with torch.device("meta"):
        model = MiniMind(cfg)
    model.to_empty(device=device)
    load_weights(model, checkpoint)
    return model.eval(), BPE.load(checkpoint / TOKENIZER)
