"""`minimind import`: converts a Hugging Face transformers folder to a run folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.utils.terminal import say

if TYPE_CHECKING:
    from minimind.model.config import ModelConfig
    from minimind.model.transformer import MiniMind
    from minimind.tokenizer.bpe import BPE


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("import", help="convert a Llama, Mistral, Qwen3 or Qwen3-MoE folder to a run folder")
    parser.add_argument("folder", help="folder with config.json, weights and tokenizer.json, from save_pretrained")
    parser.add_argument("--to", required=True, metavar="RUN", help="new run folder, such as runs/<name>")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.interop.huggingface import import_folder
    from minimind.utils.files import refuse_non_empty
    from minimind.utils.paths import default_root, find_existing

    source = find_existing(arguments.folder, "The folder to import")
    target = default_root() / Path(arguments.to).expanduser()  # where relative paths of runs are looked up
    refuse_non_empty(target)
    model, tokenizer = import_folder(source)
    write_run(model, tokenizer, source, target)
    say(f"Imported {source} as the run {target}: {model.config.num_parameters() / 1e6:.2f}M parameters.")
    say(f'Try: minimind generate {target} --prompt "…", evaluate.py checkpoint={target}, init_from={target}.')
    return 0


def write_run(model: "MiniMind", tokenizer: "BPE", source: Path, target: Path) -> None:
    """Writes a finished run of zero steps with one checkpoint, under a temporary name first.

    Raises:
        UserError: the folder cannot be written; nothing is left behind.
    """
    from minimind.runs.checkpoints import CONFIG, MODEL, TOKENIZER, mark_complete
    from minimind.runs.folder import RunFolder, checkpoint_name
    from minimind.runs.source import git_commit, source_hash, versions
    from minimind.runs.states import RunState
    from minimind.runs.stored_config import write_config
    from minimind.utils.files import new_folder, write_json

    config = run_config(model.config, target)
    with new_folder(target) as path:
        folder = RunFolder(path)
        checkpoint = folder.checkpoints / checkpoint_name(0)
        checkpoint.mkdir(parents=True)
        for parent in (folder.path, checkpoint):
            write_config(parent / CONFIG, config)
            tokenizer.save(parent / TOKENIZER)
        write_json(checkpoint / MODEL, model.config.to_dict())
        _write_weights(model, checkpoint)
        mark_complete(checkpoint, 0)
        folder.update_status(
            state=RunState.FINISHED, reason=f"imported from {source}", step=0, tokens=0, versions=versions(),
            git_commit=git_commit(), source_hash=source_hash(), data_fingerprint=None,
        )  # fmt: skip


def _write_weights(model: "MiniMind", checkpoint: Path) -> None:
    """Raises: OSError, such as when the disk is full."""
    import torch

    from minimind.runs.checkpoints import STATE

    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    try:
        torch.save({"state_dict": weights, "global_step": 0}, checkpoint / STATE)
    except RuntimeError:  # torch's message is about its source code
        raise OSError("the weights cannot be written; the disk may be full") from None


def run_config(model: "ModelConfig", target: Path) -> dict[str, Any]:
    """The default settings of train.py with this model and its tokenizer.

    Raises:
        ConfigError: the model does not fit the other settings.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from minimind.config.checks import to_config
    from minimind.config.plan import plain
    from minimind.config.schema import register
    from minimind.runs.checkpoints import TOKENIZER
    from minimind.utils.paths import conf_dir, default_root

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=["tokenizer=file"])
    cfg.model = OmegaConf.structured(model)
    cfg.tokenizer.path = str(target / TOKENIZER)
    cfg.run.name = target.name
    cfg.paths.root = str(default_root())
    while cfg.data.sequence_length > model.context_length:
        cfg.data.sequence_length //= 2
    to_config(cfg)
    return plain(cfg)
