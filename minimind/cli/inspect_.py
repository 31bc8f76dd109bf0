"""`minimind inspect`: describes a trained model, a folder of token shards or a tokenizer."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.utils.errors import UserError
from minimind.utils.terminal import say

if TYPE_CHECKING:
    from minimind.model.config import ModelConfig

SHARD_OPTIONS = ("window", "length", "sequence_length", "batch_tokens", "epochs")
TOKENIZER_OPTIONS = ("tokens", "first", "corpus")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("inspect", help="describe a trained model, prepared data or a tokenizer")
    parser.add_argument("path", help="a run or checkpoint folder, a folder of token shards, or a tokenizer.json")
    shards = parser.add_argument_group("token shards")
    shards.add_argument("--window", type=int, metavar="N", help="show the text of window N")
    shards.add_argument("--length", type=int, metavar="T", help="tokens in that window; default: 256")
    shards.add_argument("--sequence-length", type=int, metavar="T", help="tokens per training example; default: 512")
    shards.add_argument("--batch-tokens", type=int, metavar="B", help="tokens per step, to count steps")
    shards.add_argument("--epochs", type=float, metavar="E", help="number of epochs to count; default: 1")
    tokenizer = parser.add_argument_group("a tokenizer")
    tokenizer.add_argument("--tokens", type=int, metavar="COUNT", help="number of tokens to show; default: 48")
    tokenizer.add_argument("--first", type=int, metavar="ID", help="start at ID; default: spread over the vocabulary")
    tokenizer.add_argument(
        "--corpus", metavar="FILE", help="measure bytes per token on a text, .jsonl or .parquet file"
    )
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.utils.paths import find_existing

    path = find_existing(arguments.path, "What to inspect")
    if path.is_file():
        from minimind.cli.inspect_tokenizer import show

        _refuse_options(arguments, SHARD_OPTIONS, "token shards")
        show(path, count=arguments.tokens, first=arguments.first, corpus=arguments.corpus)
    elif folders := shard_folders(path):
        from minimind.cli.inspect_shards import show_shards

        _refuse_options(arguments, TOKENIZER_OPTIONS, "a tokenizer")
        show_shards(path, folders, arguments)
    else:
        _refuse_options(arguments, SHARD_OPTIONS, "token shards")
        _refuse_options(arguments, TOKENIZER_OPTIONS, "a tokenizer")
        _show_run(path)
    return 0


def shard_folders(path: Path) -> list[Path]:
    """The folders with a manifest: `path` itself or those of its splits."""
    return [folder for folder in (path, path / "train", path / "validation") if (folder / "manifest.json").is_file()]


def _refuse_options(arguments: argparse.Namespace, options: tuple[str, ...], kind: str) -> None:
    given = [f"--{option.replace('_', '-')}" for option in options if getattr(arguments, option) is not None]
    if given:
        raise UserError(f"{', '.join(given)} must only be used with {kind}, but {arguments.path} is something else.")


def _show_run(path: Path) -> None:
    from minimind.config.schema import load_stored
    from minimind.runs.checkpoints import CONFIG, TOKENIZER, checkpoint_of
    from minimind.tokenizer.bpe import BPE
    from minimind.training.model_file import stored_model

    checkpoint = checkpoint_of(path)
    lines = describe(stored_model(checkpoint), load_stored(checkpoint / CONFIG).data.sequence_length)
    lines["tokenizer"] = f"{BPE.load(checkpoint / TOKENIZER).vocab_size:,} tokens"
    say(checkpoint)
    for name, text in lines.items():
        say(f"  {name:11} {text}")


def describe(cfg: "ModelConfig", sequence_length: int) -> dict[str, str]:
    """One line per part of the architecture; FLOPs are per training token at that sequence length."""
    total, active = cfg.num_parameters(), cfg.num_parameters(active=True)
    mlp = f"width {cfg.resolved_intermediate_size}"
    if cfg.num_moe_layers:
        mlp = f"{cfg.num_experts_per_tok} of {cfg.num_experts} experts (width {cfg.resolved_moe_intermediate_size})"
        mlp += f" and {cfg.num_shared_experts} shared" if cfg.num_shared_experts else ""
        mlp += f" in {cfg.num_moe_layers} of the layers"
    head = "tied head" if cfg.tie_word_embeddings else "separate head"
    active_text = f", {active / 1e6:.2f}M active per token" if active < total else ""
    return {
        "parameters": f"{total / 1e6:.2f}M{active_text}",
        "layers": f"{cfg.num_hidden_layers} of hidden size {cfg.hidden_size}",
        "heads": f"{cfg.num_attention_heads} of size {cfg.resolved_head_dim}, {cfg.num_key_value_heads} for keys "
        "and values",
        "mlp": f"{mlp}, {cfg.hidden_act.value}{', gated' if cfg.gated_mlp else ''}",
        "embedding": f"{cfg.vocab_size:,} tokens, {head}",
        "context": f"{cfg.context_length:,} tokens, position: {cfg.position.value}",
        "training": f"{cfg.flops_per_token(sequence_length) / 1e6:,.1f} MFLOPs per token at length {sequence_length:,}",
        "KV cache": f"{cfg.kv_bytes_per_token():,} bytes per token in bf16",
    }
