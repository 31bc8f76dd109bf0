"""`minimind prepare`: turns a corpus into a tokenizer and cached token shards, as train.py does on first use."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import run_app
from minimind.cli.help import prepare_help
from minimind.utils.terminal import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minimind.config.schema import TrainConfig
    from minimind.data.prepare import PreparedData


def main() -> int:
    return run_app("train", _task, prepare_help)


def _task(composed: "DictConfig") -> None:
    from minimind.config.checks import check_tokenizer, to_config
    from minimind.data.prepare import SPLITS, TRAIN, prepare
    from minimind.utils.paths import default_root

    composed.paths.root = composed.paths.root or str(default_root())
    cfg = to_config(composed)
    check_tokenizer(cfg)
    data = prepare(cfg.data, cfg.tokenizer, Path(cfg.paths.cache))
    steps = _steps(cfg, data)
    total_weight = sum(source.weight for source in data.sources)
    for source in data.sources:
        say(source.name)
        for split in SPLITS:
            stream = source.stream(split)
            ratio = stream.text_bytes / max(1, stream.num_targets)
            tokens = f"{len(stream):,} tokens"
            if stream.has_targets:
                tokens += f" ({stream.num_targets:,} are targets)"
            counts = f"{stream.num_documents:,} documents, {tokens}, {stream.text_bytes:,} bytes"
            say(f"  {split:11} {counts}, {ratio:.2f} bytes per token")
        say(f"  folder      {source.folder}")
        say(f"  training    {_epochs(cfg, steps, source.weight / total_weight, len(source.stream(TRAIN)))}")
    say(f"tokenizer\n  {data.tokenizer.vocab_size:,} tokens, {data.tokenizer_path}")
    say("For details: minimind inspect FOLDER")


def _steps(cfg: "TrainConfig", data: "PreparedData") -> int:
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    from minimind.config.build import steps_of

    assert cfg.trainer.epochs is not None
    return steps_of(cfg.trainer.epochs, cfg, data)


def _epochs(cfg: "TrainConfig", steps: int, fraction: float, tokens: int) -> str:
    """How much of a source the configured run would use; padding is not counted."""
    part = "" if fraction == 1 else f", {fraction:.1%} from this source"
    text = f"{steps:,} steps of {cfg.trainer.batch_tokens:,} tokens{part}"
    if cfg.trainer.epochs is not None:
        return f"{text}: {cfg.trainer.epochs:g} epochs"
    if cfg.data.packing.value == "pad":
        return text
    return f"{text}: {fraction * steps * cfg.trainer.batch_tokens / tokens:.3g} epochs"
