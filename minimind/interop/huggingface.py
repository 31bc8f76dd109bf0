"""A folder that `AutoModelForCausalLM.from_pretrained` loads, written from a model of ours and read into one.

transformers itself is not needed: config.json is JSON, and the weights are read and written by `safetensors`.
Our names are theirs; only experts differ: stacked in memory (there as here), one by one on disk.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minimind.interop.families import choose_family, from_huggingface, to_huggingface
from minimind.interop.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG, generation_config, tokenizer_config
from minimind.model.transformer import MiniMind
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError, in_brief
from minimind.utils.files import new_folder, read_object, refuse_non_empty, write_json
from minimind.utils.torch_files import check_names, check_weights, load_tensors, not_finite, summary

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
STACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")
DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")  # in old Llama folders; follows from config.json
ABSURD = 10  # times as many parameters in the configuration as in the weights


def export_folder(
    model: MiniMind, tokenizer: BPE, folder: Path, *, family: str | None = None, dtype: torch.dtype = torch.float32
) -> str:
    """Writes configuration, weights and tokenizer; returns the family.

    Raises:
        UserError: no family can hold the model, or `dtype` its weights, or the folder is not empty; nothing is
            written then.
    """
    family = choose_family(model.config, family)
    refuse_non_empty(folder)
    weights = _converted(weights_on_disk(model), dtype)
    tokens = generation_config(tokenizer)
    # Without pad_token_id: transformers would keep that token's embedding from learning, and ours pads with a real one.
    ends = {name: tokens[name] for name in ("bos_token_id", "eos_token_id")}
    config = to_huggingface(model.config, family) | ends | {"dtype": str(dtype).removeprefix("torch.")}
    with new_folder(folder) as made:
        write_json(made / CONFIG, config)
        _save(weights, made / WEIGHTS)
        tokenizer.save(made / TOKENIZER)
        write_json(made / TOKENIZER_CONFIG, tokenizer_config(tokenizer, model.config.context_length))
        write_json(made / "generation_config.json", tokens)
    return family


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Raises: OSError, such as for a full disk."""
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(in_brief(error)) from None


def _converted(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    converted = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if names := not_finite(converted):
        kind, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
        further = {torch.float16: "; use --dtype bfloat16 or float32", torch.bfloat16: "; use --dtype float32"}
        raise UserError(
            f"The weights must be finite as {kind} (at most {largest:.5g}), but are not: {summary(names)}"
            f"{further.get(dtype, '')}."
        )
    return converted


def import_folder(folder: Path) -> tuple[MiniMind, BPE]:
    """The model in evaluation mode, float32, and its tokenizer.

    Raises:
        UserError: something is missing, superfluous, broken, or computes what our model does not.
    """
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder} must have a {TOKENIZER}, but has none; save a fast tokenizer into it.")
    tokenizer, model = BPE.load(folder / TOKENIZER), import_model(folder)
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
    cfg = from_huggingface(read_object(folder / CONFIG))
    found = {name: t for name, t in read_weights(folder).items() if not DERIVED.fullmatch(name)}
    check_weights(found, str(folder))
    there = sum(tensor.numel() for tensor in found.values())
    if cfg.num_parameters() > ABSURD * there:  # building it, even without memory, might take for ever
        raise UserError(
            f"{folder / CONFIG} must describe the weights beside it, but has {cfg.num_parameters():,} parameters to "
            f"their {there:,}."
        )
    with torch.device("meta"):
        model = MiniMind(cfg)
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    tied = cfg.tie_word_embeddings
    if tied and head is not None and embedding is not None and torch.equal(head, embedding):
        del found["lm_head.weight"]  # written twice
    check_names(found, weights_on_disk(model), f"The weights in {folder} must be what its {CONFIG} describes")
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
            return _read_files(folder, _files_in(index))
        if (folder / kind).is_file():
            return _read_file(folder / kind)
    raise UserError(f"{folder} must have weights in {WEIGHTS} or {PICKLE}, or an index of shards, but has neither.")


def _files_in(index: Path) -> list[str]:
    """Their names; a path would lead out of the folder."""
    try:
        return sorted({Path(file).name for file in read_object(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} must say in `weight_map` which file has which weight, but does not.") from None


def _read_files(folder: Path, files: list[str]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in files:
        read = _read_file(folder / file)
        if twice := sorted(weights.keys() & read.keys()):
            raise UserError(f"Each weight in {folder} must be in one file, but {summary(twice)} in {file} is in two.")
        weights |= read
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        weights = load_tensors(path, "a whole file of weights")
        if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise UserError(f"{path} must hold named tensors and nothing else, but holds other things too.")
        return {str(name): tensor for name, tensor in weights.items()}
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path} must be a whole file of weights, but cannot be read: {error.strerror}.") from None
    except Exception as error:  # SafetensorError, and others for a dtype that torch does not have
        raise UserError(f"{path} must be a whole file of weights, but cannot be read: {in_brief(error)}.") from None
