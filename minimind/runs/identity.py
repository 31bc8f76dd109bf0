"""The settings that identify a run. docs/runs.md has the same table; a test compares them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

# Everything under these keys can change a reported metric …
HASHED = (
    "model",
    "data",
    "tokenizer",
    "objective",
    "optim",
    "schedule",
    "seed",
    "init_from",
    "run.tag",
    "trainer.max_steps",
    "trainer.epochs",
    "trainer.batch_tokens",
    "trainer.precision",
    "trainer.gradient_clip",
    "trainer.compile",
    "trainer.deterministic",
    "callbacks.early_stopping",
)
# … and these only where, when and how visibly the run happens.
NOT_HASHED = (
    "recipe",  # the groups that refer to it hold the values in use
    "data.num_workers",
    "data.prepare_processes",
    "data.verify",
    "run.name",
    "run.fresh",
    "run.resume",
    "run.accept_data_change",
    "run.command",
    "run.max_minutes",
    "run.requeue",
    "trainer.micro_batch",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_threads",
    "trainer.log_every_steps",
    "trainer.validate_every_steps",
    "trainer.checkpoint_every_steps",
    "trainer.checkpoint_every_minutes",
    "trainer.keep_checkpoints",
    "trainer.keep_every_steps",
    "trainer.max_nonfinite_steps",  # when a run gives up; no metric before that depends on it
    "parallel",
    "paths",
    "callbacks",
    "logger",
    "evaluation",
    "ablation",
)
# Hashed settings that a resumed run may change: its length …
LENGTH = ("trainer.max_steps", "trainer.epochs", "schedule.horizon_steps", "callbacks.early_stopping")
# … and the paths of its data, whose content is compared separately.
PATHS = ("data.files", "data.validation_files", "tokenizer.path")


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten the configuration to `a.b.c` → value; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(leaves(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def is_hashed(leaf: str) -> bool:
    """Raises: KeyError, if the leaf is in neither table."""
    rules = [rule for rule in (*HASHED, *NOT_HASHED) if leaf == rule or leaf.startswith(rule + ".")]
    if not rules:
        raise KeyError(f"{leaf} is neither in HASHED nor in NOT_HASHED of {__name__}.")
    return max(rules, key=len) in HASHED


def may_change(leaf: str) -> bool:
    """Whether a resumed run may change this setting."""
    return is_under(leaf, LENGTH) or is_data_path(leaf)


def is_data_path(leaf: str) -> bool:
    """Whether the setting is a path of data."""
    in_source = leaf.startswith("data.sources.") and leaf.rpartition(".")[2] in ("files", "validation_files")
    return in_source or is_under(leaf, PATHS)


def is_under(leaf: str, names: Sequence[str]) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for name in names)


def run_hash(config: dict[str, Any]) -> str:
    """Eight hex digits identifying the hashed settings, as composed and before any `auto` is resolved."""
    hashed = {leaf: value for leaf, value in leaves(config).items() if is_hashed(leaf)}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:8]
