"""Export to and import from folders that `AutoModelForCausalLM.from_pretrained` loads.

Does not need transformers: config.json is JSON, and `safetensors` reads and writes the weights. Parameter names are the
same, except that experts are stacked in memory (as in transformers 5) and separate on disk.
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
DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")  # in old Llama folders; computed from config.json
MAX_PARAMETER_RATIO = 10  # of the configuration to the weights; beyond it the folder is refused


def export_folder(
    model: MiniMind, tokenizer: BPE, folder: Path, *, family: str | None = None, dtype: torch.dtype = torch.float32
) -> str:
    """Writes configuration, weights and tokenizer; returns the family.

    Raises:
        UserError: no family can represent the model, the weights overflow in `dtype`, or the folder is not empty.
            Nothing is written then.
    """
    family = choose_family(model.config, family)
    refuse_non_empty(folder)
    weights = _converted(weights_on_disk(model), dtype)
    generation = generation_config(tokenizer)
    # No pad_token_id: transformers would not train that token's embedding, and ours is a real token.
    special_ids = {name: generation[name] for name in ("bos_token_id", "eos_token_id")}
    config = to_huggingface(model.config, family) | special_ids | {"dtype": str(dtype).removeprefix("torch.")}
    with new_folder(folder) as new:
        write_json(new / CONFIG, config)
        _save(weights, new / WEIGHTS)
        tokenizer.save(new / TOKENIZER)
        write_json(new / TOKENIZER_CONFIG, tokenizer_config(tokenizer, model.config.context_length))
        write_json(new / "generation_config.json", generation)
    return family


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Raises: OSError, such as when the disk is full."""
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(in_brief(error)) from None


def _converted(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    converted = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if names := not_finite(converted):
        dtype_name, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
        remedies = {torch.float16: "; use --dtype bfloat16 or float32", torch.bfloat16: "; use --dtype float32"}
        raise UserError(
            f"The weights must be finite as {dtype_name} (at most {largest:.5g}), but are not: {summary(names)}"
            f"{remedies.get(dtype, '')}."
        )
    return converted


def import_folder(folder: Path) -> tuple[MiniMind, BPE]:
    """The float32 model in evaluation mode, and its tokenizer.

    Raises:
        UserError: something is missing, unexpected, damaged or not supported by our model.
    """
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder} must have a {TOKENIZER}, but has none; save a fast tokenizer to it.")
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
        raise UserError(f"{folder} must be a Hugging Face transformers folder, but has no {CONFIG}.")
    cfg = from_huggingface(read_object(folder / CONFIG))
    found = {name: t for name, t in read_weights(folder).items() if not DERIVED.fullmatch(name)}
    check_weights(found, str(folder))
    num_weights = sum(tensor.numel() for tensor in found.values())
    if cfg.num_parameters() > MAX_PARAMETER_RATIO * num_weights:  # building the model might take forever
        raise UserError(
            f"{folder / CONFIG} must match the weights, but describes {cfg.num_parameters():,} parameters, and the "
            f"weights have {num_weights:,}."
        )
    with torch.device("meta"):
        model = MiniMind(cfg)
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    tied = cfg.tie_word_embeddings
    if tied and head is not None and embedding is not None and torch.equal(head, embedding):
        del found["lm_head.weight"]  # written twice
    check_names(found, weights_on_disk(model), f"The weights in {folder} must be those its {CONFIG} describes")
    model.to_empty(device="cpu")
    state = {name: in_memory(name, found) for name in model.state_dict() if not (tied and name == "lm_head.weight")}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def weights_on_disk(model: MiniMind) -> dict[str, Tensor]:
    """Tensors by their names in the file: a tied head once, each expert separately."""
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if not (stacked := STACKED.fullmatch(name)):
            weights[name] = tensor
            continue
        prefix, kind = stacked.groups()
        for index, expert in enumerate(tensor):
            parts = zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True)
            for part, matrix in [("down_proj", expert)] if kind == "down_proj" else parts:
                weights[f"{prefix}.{index}.{part}.weight"] = matrix.clone()  # safetensors rejects shared memory
    return weights


def in_memory(name: str, weights: dict[str, Tensor]) -> Tensor:
    """The tensor named `name` in our model; stacked experts are (E, 2F, D) and (E, D, F)."""
    if not (stacked := STACKED.fullmatch(name)):
        return weights[name]
    prefix, kind = stacked.groups()
    parts = ["down_proj"] if kind == "down_proj" else ["gate_proj", "up_proj"]
    experts: list[Tensor] = []
    while f"{prefix}.{len(experts)}.{parts[0]}.weight" in weights:
        index = len(experts)
        experts.append(torch.cat([weights[f"{prefix}.{index}.{part}.weight"] for part in parts]))
    return torch.stack(experts)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or several shards; a pickle must contain only tensors."""
    for kind in (WEIGHTS, PICKLE):
        index = folder / f"{kind}.index.json"
        if index.is_file():
            return _read_files(folder, _files_in(index))
        if (folder / kind).is_file():
            return _read_file(folder / kind)
    raise UserError(f"{folder} must have weights in {WEIGHTS} or {PICKLE}, or an index of shards, but has neither.")


def _files_in(index: Path) -> list[str]:
    """The names of the shards; directories are stripped, since a path could point outside the folder."""
    try:
        return sorted({Path(file).name for file in read_object(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} must map each weight to its file in `weight_map`, but does not.") from None


def _read_files(folder: Path, files: list[str]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in files:
        read = _read_file(folder / file)
        if duplicates := sorted(weights.keys() & read.keys()):
            raise UserError(
                f"Each weight in {folder} must be in one file only, but {file} repeats {summary(duplicates)}."
            )
        weights |= read
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        weights = load_tensors(path, "a complete file of weights")
        if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise UserError(f"{path} must contain only named tensors, but contains other objects too.")
        return {str(name): tensor for name, tensor in weights.items()}
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path} must be a complete file of weights, but cannot be read: {error.strerror}.") from None
    except Exception as error:  # SafetensorError, or another type for a dtype that torch does not have
        raise UserError(f"{path} must be a complete file of weights, but cannot be read: {in_brief(error)}.") from None
