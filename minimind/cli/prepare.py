"""`minimind prepare`: a corpus → tokenizer and token shards in the cache, as train.py would on first use."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import run_app
from minimind.cli.help import prepare_help

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minimind.config.schema import TrainConfig


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
    total_weight = sum(source.weight for source in data.sources)
    for source in data.sources:
        print(source.name)
        for split in SPLITS:
            stream = source.stream(split)
            ratio = stream.text_bytes / max(1, len(stream))
            figures = f"{stream.num_documents:,} documents, {len(stream):,} tokens, {stream.text_bytes:,} bytes"
            print(f"  {split:11} {figures}, {ratio:.2f} bytes a token")
        print(f"  folder      {source.folder}")
        print(f"  training    {_epochs(cfg, source.weight / total_weight, len(source.stream(TRAIN)))}")
    print(f"tokenizer\n  {data.tokenizer.vocab_size:,} tokens, {data.tokenizer_path}")
    print("minimind inspect FOLDER shows more.")


def _epochs(cfg: "TrainConfig", share: float, tokens: int) -> str:
    """What the configured run would take of it."""
    steps, read = cfg.trainer.max_steps, share * cfg.trainer.max_steps * cfg.trainer.batch_tokens
    of = "" if share == 1 else f", {share:.1%} of it from here"
    return f"{steps:,} steps of {cfg.trainer.batch_tokens:,} tokens{of}: {read / tokens:.3g} epochs"
