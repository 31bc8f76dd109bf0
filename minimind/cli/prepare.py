"""`minimind prepare`: a corpus → tokenizer and token shards in the cache, as train.py would on first use."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import run_app
from minimind.cli.help import prepare_help

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> int:
    return run_app("train", _task, prepare_help)


def _task(composed: "DictConfig") -> None:
    from minimind.config.checks import to_config
    from minimind.data.prepare import TRAIN, VALIDATION, prepare
    from minimind.utils.paths import default_root

    composed.paths.root = composed.paths.root or str(default_root())
    cfg = to_config(composed)
    data = prepare(cfg.data, cfg.tokenizer, Path(cfg.paths.cache))
    for split in (TRAIN, VALIDATION):
        for source, stream in zip(data.sources, data.streams(split), strict=True):
            print(
                f"{source.name}, {split}: {stream.num_documents:,} documents, {len(stream):,} tokens, "
                f"{stream.text_bytes:,} bytes, {stream.text_bytes / max(1, len(stream)):.2f} bytes a token"
            )
    for source in data.sources:
        print(f"{source.name} is in {source.folder}.")
