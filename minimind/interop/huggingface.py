"""A folder that `AutoModelForCausalLM.from_pretrained` loads, written from a model of ours and read into one.

transformers itself is not needed: config.json is JSON, and the weights are read and written by `safetensors`.
Our names are theirs; only experts differ: stacked in memory (there as here), one by one on disk.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minimind.interop.families import choose_family, from_huggingface, to_huggingface
from minimind.interop.tokenizer_files import TOKENIZER, generation_config, tokenizer_config
from minimind.model.transformer import MiniMind
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
STACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")
DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")  # in old Llama folders; follows from config.json
SHOWN = 5  # names in an error, of possibly thousands


def export_folder(
    model: MiniMind, tokenizer: BPE, folder: Path, *, family: str | None = None, dtype: torch.dtype = torch.float32
) -> str:
    """Writes configuration, weights and tokenizer; returns the family.

    Raises:
        UserError: no family can hold the model, or the folder is not empty; nothing is written then.
    """
    family = choose_family(model.config, family)
    refuse_non_empty(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokens = generation_config(tokenizer)
    # Without pad_token_id: transformers would keep that token's embedding from learning, and ours pads with a real one.
    ends = {name: tokens[name] for name in ("bos_token_id", "eos_token_id")}
    config = to_huggingface(model.config, family) | ends | {"dtype": str(dtype).removeprefix("torch.")}
    write_json(temporary / CONFIG, config)
    weights = {name: t.to(dtype).contiguous() for name, t in weights_on_disk(model).items()}
    save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(temporary / TOKENIZER)
    write_json(temporary / "tokenizer_config.json", tokenizer_config(tokenizer, model.config.context_length))
    write_json(temporary / "generation_config.json", tokens)
    temporary.rename(folder)
    return family


def import_folder(folder: Path) -> tuple[MiniMind, BPE]:
    """The model in evaluation mode, float32, and its tokenizer.

    Raises:
        UserError: something is missing, superfluous, broken, or computes what our model does not.
    """
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder} must have a {TOKENIZER}, but has none; save a fast tokenizer into it.")
    model, tokenizer = import_model(folder), BPE.load(folder / TOKENIZER)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"The tokenizer in {folder} must fit the model's `vocab_size` ({model.config.vocab_size}), but has "
            f"{tokenizer.vocab_size} tokens; it belongs to another model."
        )
    return model, tokenizer


def import_model(folder: Path) -> MiniMind:
    """The model alone; raises as `import_folder` does."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} must be a folder of Hugging Face's transformers, but has no {CONFIG}.")
    try:
        config = read_json(folder / CONFIG)
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CONFIG} must be JSON, but: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} must be a JSON object, but is a {type(config).__name__}.")
    with torch.device("meta"):
        model = MiniMind(from_huggingface(config))
    found = {name: t for name, t in read_weights(folder).items() if not DERIVED.fullmatch(name)}
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    tied = model.config.tie_word_embeddings
    if tied and head is not None and embedding is not None and torch.equal(head, embedding):
        del found["lm_head.weight"]  # written twice
    _check_names(found, weights_on_disk(model), folder)
    model.to_empty(device="cpu")
    state = {name: in_memory(name, found) for name in model.state_dict() if not (tied and name == "lm_head.weight")}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def weights_on_disk(model: MiniMind) -> dict[str, Tensor]:
    """Every tensor under its name in the file: a tied head once, experts one by one."""
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if not (stacked := STACKED.fullmatch(name)):
            weights[name] = tensor
            continue
        prefix, kind = stacked.groups()
        for number, expert in enumerate(tensor):
            parts = zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True)
            for part, matrix in [("down_proj", expert)] if kind == "down_proj" else parts:
                weights[f"{prefix}.{number}.{part}.weight"] = matrix.clone()  # safetensors refuses shared memory
    return weights


def in_memory(name: str, weights: dict[str, Tensor]) -> Tensor:
    """The tensor that our model calls `name`: (E, 2F, D) and (E, D, F) for experts."""
    if not (stacked := STACKED.fullmatch(name)):
        return weights[name]
    prefix, kind = stacked.groups()
    parts = ["down_proj"] if kind == "down_proj" else ["gate_proj", "up_proj"]
    experts: list[Tensor] = []
    while f"{prefix}.{len(experts)}.{parts[0]}.weight" in weights:
        number = len(experts)
        experts.append(torch.cat([weights[f"{prefix}.{number}.{part}.weight"] for part in parts]))
    return torch.stack(experts)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whether in one file or many; a pickle may hold tensors only."""
    for kind in (WEIGHTS, PICKLE):
        index = folder / f"{kind}.index.json"
        if index.is_file():
            try:
                names = sorted(set(read_json(index)["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{index} must say in `weight_map` which file has which weight, but does not."
                ) from None
            return {name: t for file in names for name, t in _read_file(folder / Path(file).name).items()}
        if (folder / kind).is_file():
            return _read_file(folder / kind)
    raise UserError(f"{folder} must have weights in {WEIGHTS} or {PICKLE}, or an index of shards, but has neither.")


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a whole file of weights, but cannot be read: {error}") from None
    except Exception as error:  # torch raises several kinds for what is wrong with, or forbidden in, a pickle
        raise UserError(f"{path} must hold tensors and nothing else, but cannot be read so: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{path} must hold named tensors and nothing else, but holds other things too.")
    return weights


def _check_names(found: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    """Raises: UserError, naming what is missing, what nobody asked for, and what has another shape."""
    shapes = [
        f"{name} {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    complaints = {
        "lack": sorted(expected.keys() - found.keys()),
        "have unexpected": sorted(found.keys() - expected.keys()),
        "have in another shape": shapes,
    }
    said = [f"{what} {_some(names)}" for what, names in complaints.items() if names]
    if said:
        raise UserError(f"The weights in {folder} must be what its {CONFIG} describes, but {'; '.join(said)}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def refuse_non_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} must be a new folder, but is there already; choose another name.")
