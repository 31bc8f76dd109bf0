"""Silences what libraries say that a user can do nothing about; everything else stays."""

import logging
import os
import warnings

IGNORED_WARNINGS = (
    # Lightning's advice on loaders, made for map-style data sets; ours read memory-maps
    r".*does not have many workers.*",
    r".*`IterableDataset` has `__len__` defined.*",
    # said of any validation without self.log; our figures go through torchmetrics and metrics.jsonl
    r".*You called `self\.log.*",
    r".*`broadcast_buffers` is deprecated.*",  # its successor is not in the oldest torch that we take
    r".*isinstance\(treespec, LeafSpec\).*",
)


def quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else a warning at each fork of a loader's worker
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    import lightning.pytorch  # noqa: F401  sets its loggers to INFO when imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
