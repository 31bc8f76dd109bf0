"""`minimind inspect`: what a trained model is, in a few lines."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimind.model.config import ModelConfig


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("inspect", help="show a model's parameters, shape, context, FLOPs and cache a token")
    parser.add_argument("run", help="a run folder (its best checkpoint) or a checkpoint folder")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    from minimind.config.schema import load_stored
    from minimind.model.config import ModelConfig
    from minimind.runs.folder import checkpoint_of
    from minimind.tokenizer.bpe import BPE
    from minimind.training.checkpoint import CONFIG, TOKENIZER
    from minimind.utils.paths import find_existing

    checkpoint = checkpoint_of(find_existing(arguments.run, "The run"))
    stored = load_stored(checkpoint / CONFIG)
    cfg = OmegaConf.to_object(stored.model)
    assert isinstance(cfg, ModelConfig)
    lines = describe(cfg, stored.data.sequence_length)
    lines["tokenizer"] = f"{BPE.load(checkpoint / TOKENIZER).vocab_size:,} tokens"
    print(checkpoint)
    for name, text in lines.items():
        print(f"  {name:11} {text}")
    return 0


def describe(cfg: "ModelConfig", sequence_length: int) -> dict[str, str]:
    """A few words to each part of the architecture; FLOPs are those of training at that length."""
    total, active = cfg.num_parameters(), cfg.num_parameters(active=True)
    mlp = f"width {cfg.resolved_intermediate_size}"
    if cfg.num_moe_layers:
        mlp = f"{cfg.num_experts_per_tok} of {cfg.num_experts} experts (width {cfg.resolved_moe_intermediate_size})"
        mlp += f" and {cfg.num_shared_experts} shared" if cfg.num_shared_experts else ""
        mlp += f" in {cfg.num_moe_layers} of the layers"
    head = "head tied to it" if cfg.tie_word_embeddings else "head of its own"
    some = f", {active / 1e6:.2f}M of them active a token" if active < total else ""
    return {
        "parameters": f"{total / 1e6:.2f}M{some}",
        "layers": f"{cfg.num_hidden_layers} of hidden size {cfg.hidden_size}",
        "heads": f"{cfg.num_attention_heads} of size {cfg.resolved_head_dim}, {cfg.num_key_value_heads} for keys "
        "and values",
        "mlp": f"{mlp}, {cfg.hidden_act.value}{', gated' if cfg.gated_mlp else ''}",
        "embedding": f"{cfg.vocab_size:,} tokens, {head}",
        "context": f"{cfg.context_length:,} tokens, position: {cfg.position.value}",
        "training": f"{cfg.flops_per_token(sequence_length) / 1e6:,.1f} MFLOP a token at length {sequence_length:,}",
        "KV cache": f"{cfg.kv_bytes_per_token():,} bytes a token in bf16",
    }
