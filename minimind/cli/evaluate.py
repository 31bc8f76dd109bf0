"""`evaluate.py`: evaluates a checkpoint on its own held-out text or another corpus."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.cli.app import run_app, without_plus
from minimind.cli.help import evaluate_help
from minimind.runs.states import Exit
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.terminal import say
from minimind.utils.user_code import take_option

if TYPE_CHECKING:
    from omegaconf import DictConfig

READING_OVERRIDES = tuple(
    f"data.{name}=" for name in ("sequence_length", "packing", "document_mask", "verify", "num_workers")
)  # change how the text is read, not which text
CHECKPOINT_GROUPS = ("model", "tokenizer", "objective", "optim", "schedule", "seed")


def main() -> int:
    try:
        sys.argv[1:] = without_plus(take_option(sys.argv[1:]), "checkpoint")
        _register_run_settings(sys.argv[1:])
    except UserError as error:
        say(error, file=sys.stderr)
        return Exit.BAD_INPUT
    return run_app("evaluate", _task, evaluate_help)


def _register_run_settings(arguments: list[str]) -> None:
    """Registers the run's data, recipe and trainer settings as `from_run`, the default in conf/evaluate.yaml."""
    if {"--help", "-h"} & set(arguments):
        return
    refused = [a for a in arguments if a.lstrip("+~").split("=")[0].split(".")[0] in CHECKPOINT_GROUPS]
    if refused:
        raise ConfigError([f"{a}: the model and its training settings come from the checkpoint." for a in refused])
    named = [a.removeprefix("checkpoint=") for a in arguments if a.startswith("checkpoint=")]
    if not named:
        raise UserError("evaluate.py needs checkpoint=runs/<run> (or a folder in its checkpoints/); see --help.")
    from hydra.core.config_store import ConfigStore

    from minimind.config.schema import load_stored
    from minimind.runs.checkpoints import checkpoint_of
    from minimind.utils.paths import find_existing

    checkpoint = checkpoint_of(find_existing(named[-1].strip("'\""), "checkpoint"))
    stored = load_stored(checkpoint / "config.yaml")
    trainer = {key: stored.trainer[key] for key in ("accelerator", "precision", "num_threads")}
    store = ConfigStore.instance()
    store.store(group="data", name="from_run", node=stored.data)
    store.store(group="trainer", name="from_run", node=trainer)
    recipe = {key: stored.data[key] for key in ("sequence_length", "document_mask")}
    recipe["packing"] = stored.data.packing.value
    store.store(group="recipe", name="from_run", node=recipe)


def _task(composed: "DictConfig") -> int:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from minimind.config.checks import check_numbers
    from minimind.config.schema import EvaluateConfig
    from minimind.runs.checkpoints import checkpoint_of
    from minimind.utils.paths import default_root, find_existing

    composed.paths.root = composed.paths.root or str(default_root())
    check_numbers(composed)
    cfg = OmegaConf.to_object(composed)
    from minimind.cli.measure import measure  # here, since it takes seconds

    assert isinstance(cfg, EvaluateConfig)
    # False if another text is chosen; overrides of how the run's own text is read do not count
    own_text = not any(
        override.startswith("data") and not override.startswith(READING_OVERRIDES)
        for override in HydraConfig.get().overrides.task
    )
    checkpoint = checkpoint_of(find_existing(cfg.checkpoint, "checkpoint"))
    measure(cfg, checkpoint, Path(cfg.paths.cache), all_held_out=not own_text and cfg.data.kind != "stdlib")
    return 0


if __name__ == "__main__":
    sys.exit(main())
