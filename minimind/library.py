"""What `import minimind` offers to Python code: a trained run's model, and text from it."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from minimind.generation.engine import generate as generate_tokens
from minimind.generation.sampling import SamplingConfig
from minimind.model.transformer import MiniMind
from minimind.runs.checkpoints import CONFIG, checkpoint_of
from minimind.tokenizer.bpe import BPE
from minimind.training.checkpoint import load_model
from minimind.utils.hardware import pick_device
from minimind.utils.paths import find_existing

if TYPE_CHECKING:
    from minimind.config.schema import TrainConfig


class LoadedRun(NamedTuple):
    model: MiniMind
    tokenizer: BPE
    config: "TrainConfig"


def load(run: str | os.PathLike[str], *, device: str = "auto") -> LoadedRun:
    """The model in evaluation mode and float32, its tokenizer, and the configuration it was trained with.

    Args:
        run: a run folder (its best checkpoint, else its newest) or a checkpoint folder.
        device: auto, cpu, cuda or mps.

    Raises:
        UserError: there is no such run, a file of it is damaged, or it names a class whose module is not allowed.
    """
    from omegaconf import OmegaConf

    from minimind.config.schema import TrainConfig, load_stored  # only now: text from a model needs no configuration

    checkpoint = checkpoint_of(find_existing(os.fspath(run), "The run"))
    config = OmegaConf.to_object(load_stored(checkpoint / CONFIG))
    assert isinstance(config, TrainConfig)
    model, tokenizer = load_model(checkpoint, pick_device(device))
    return LoadedRun(model, tokenizer, config)


def stream(
    model: MiniMind,
    tokenizer: BPE,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    seed: int | None = None,
) -> Iterator[str]:
    """Yields the continuation of `prompt` piece by piece, each a whole number of characters.

    Args:
        temperature: 0 always takes the most likely token.
        top_k: 0 means no limit.
        seed: the same one gives the same text again; None: another text each time.

    Raises:
        UserError: a setting is out of range, or the prompt is empty or fills the context.
    """
    generator = torch.Generator(model.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    tokens = generate_tokens(
        model,
        tokenizer.encode(prompt),
        max_new_tokens=max_new_tokens,
        sampling=SamplingConfig(temperature, top_k, top_p),
        end_of_text=tokenizer.end_of_text,
        generator=generator,
    )
    yield from tokenizer.stream_decode(tokens)


def generate(model: MiniMind, tokenizer: BPE, prompt: str, **settings: Any) -> str:
    """The continuation of `prompt` as one text; settings and errors are those of `stream`."""
    return "".join(stream(model, tokenizer, prompt, **settings))
