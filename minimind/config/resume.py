"""Going on with a run folder by its name: its own settings, of which some may change, and never its code."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from minimind.config.classes import comes_with_us
from minimind.config.plan import plain
from minimind.config.schema import TrainConfig, load_stored
from minimind.objectives.config import ObjectiveConfig
from minimind.runs.checkpoints import CONFIG
from minimind.runs.identity import is_data_path, is_hashed, is_under, leaves, may_change
from minimind.runs.stored_config import read_config
from minimind.utils.errors import ConfigError
from minimind.utils.paths import conf_dir

NAME = "resumed_run"  # of the composition that `offer_stored` makes
CHOSEN_ANEW = {"callbacks": "default", "logger": "local", "parallel": "single", "evaluation": "default"}
CLASSES = ("callbacks", "logger")
EVERYWHERE = ("debug", "experiment", "recipe")  # groups that set what stands in others
# Of a finished run, what changes none of its figures: where, how fast and how visibly it is done.
NO_MATTER = ("run", "paths", "logger", "recipe", "ablation", "parallel", "callbacks.progress", "data.num_workers",
             "data.prepare_processes", "data.verify", "trainer.accelerator", "trainer.devices", "trainer.num_threads",
             "trainer.micro_batch")  # fmt: skip


def offer_stored(folder: Path, arguments: Sequence[str]) -> None:
    """Registers the folder's own configuration as the composition `NAME`, on which Hydra applies what was typed.

    Raises:
        UserError: it has none, or what was typed, or a class that is named in it, cannot be used.
    """
    stored = load_stored(folder / CONFIG)
    typed = _typed(arguments)
    chosen = [name for name in typed if (conf_dir() / name).is_dir()]
    if refused := [name for name in chosen if name not in CHOSEN_ANEW] + [n for n in ("run.name",) if n in typed]:
        raise ConfigError(
            [f"`{n}=` must not be given with run.resume={folder.name}: the run has its own." for n in refused]
        )
    refuse_foreign_classes({group: stored[group] for group in CLASSES if group not in chosen}, typed)
    node = OmegaConf.create({
        "defaults": [
            "_self_", *({group: CHOSEN_ANEW[group]} for group in chosen),
            {"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"},
        ],
        "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
    })  # fmt: skip
    of_this_start = OmegaConf.structured(TrainConfig)  # where things lie here, and what is asked of the run now
    for name in stored:
        node[name] = of_this_start[name] if name in ("paths", "run", *chosen) else stored[name]
    node.run.name, node.run.tag = stored.run.name, stored.run.tag
    ConfigStore.instance().store(name=NAME, node=node)


def _typed(arguments: Sequence[str]) -> list[str]:
    """The keys of what was typed.

    Raises:
        ConfigError: in Hydra's words, naming each argument that is no override.
    """
    parser, keys, found = OverridesParser.create(), [], []
    for argument in (a for a in arguments if not a.startswith("-")):
        try:
            keys += [override.key_or_group for override in parser.parse_overrides([argument])]
        except HydraException as error:
            lines = [line.strip() for line in str(error).splitlines() if not line.startswith("See https")]
            found.append(f"{argument}: {' '.join(line for line in lines if line.strip('^'))}")
    if found:
        raise ConfigError(found)
    return keys


def refuse_foreign_classes(groups: dict[str, DictConfig], typed: Sequence[str]) -> None:
    """A folder may come from others: what it names is made only if it is ours, Lightning's, or typed by the user.

    Raises:
        ConfigError: naming each other class.
    """
    found = []
    for group, nodes in groups.items():
        for name, node in nodes.items():
            target = str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
            key = f"{group}.{name!s}._target_"
            if target and key not in typed and not comes_with_us(target):
                found.append(
                    f"`{key}` of a run folder must be a class of MiniMind or Lightning, but is {target}, which may be "
                    f"anybody's; if you trust it, type {key}={target}."
                )
    if found:
        raise ConfigError(found)


def refuse_other_settings(config: dict[str, Any], folder: Path, step: int) -> None:
    """What stands in a run or checkpoint was trained with its settings: others would be recorded, and not be true.

    Args:
        folder: has the config.yaml to hold `config` against.
        step: to which the run has come.

    Raises:
        ConfigError: naming each setting that would change.
    """
    before = load_stored(folder / CONFIG)
    stored, asked = leaves(plain(before)), leaves(config)
    frozen = _frozen(before)  # may lie elsewhere now: what is in them is compared with the status of the run
    found = [
        f"`{key}` must be {stored.get(key)}, with which {folder} was trained, but is {asked.get(key)}; for a new run "
        f"from its weights type init_from={folder} in place of run.resume."
        for key in sorted(stored.keys() | asked.keys())
        if stored.get(key) != asked.get(key) and is_hashed(key) and not may_change(key) and key not in frozen
    ]
    steps = asked.get("trainer.max_steps")
    if steps is not None and steps < step:
        found.append(_too_few(steps, step))
    if found:
        raise ConfigError(found)


def _frozen(config: DictConfig) -> set[str]:
    """The settings that name the models of the objective that are not trained."""
    objective = OmegaConf.to_object(config.objective)
    assert isinstance(objective, ObjectiveConfig)
    return {f"objective.{name}" for name in objective.frozen()}


def refuse_fewer_steps(steps: int, step: int, epochs: float | None) -> None:
    """What was done cannot be undone: a shorter length would be recorded, and not be true.

    Args:
        steps: to be done in all, perhaps in so many `epochs`.
        step: to which the run has come.

    Raises:
        ConfigError.
    """
    if steps < step:
        raise ConfigError([_too_few(steps, step, epochs)])


def _too_few(steps: int, step: int, epochs: float | None = None) -> str:
    if epochs is None:
        return f"`trainer.max_steps` must be at least {step}, to which the run has come, but is {steps}."
    return (
        f"`trainer.epochs` must be at least as many as the run has come to, which is step {step}, but is {epochs}, "
        f"which is step {steps}."
    )


def not_applied(config: dict[str, Any], folder: Path) -> list[str]:
    """What was typed for a run that is finished, and would change its record, but cannot: nothing is done any more.

    What was typed at the last start, word for word, is what stands: a default may have changed since.

    Returns:
        Each as `key=value (not value)`.
    """
    before = read_config(folder / CONFIG)  # as it stands: another version may not know all that it says
    known = _overrides(before)
    keys = [name.replace("/", ".") for name in _typed([one for one in _overrides(config) if one not in known])]
    everywhere = bool(known) and any(name in EVERYWHERE for name in keys)
    nothing: dict[str, Any] = {}  # where all of a group is left out
    stored, asked = ({k: v for k, v in leaves(one).items() if v != nothing} for one in (before, config))
    return [
        f"{key}={asked.get(key)} (not {stored.get(key)})"
        for key in sorted(stored.keys() | asked.keys())
        if stored.get(key) != asked.get(key) and (everywhere or is_under(key, keys))
        and not (is_under(key, NO_MATTER) or is_data_path(key))
    ]  # fmt: skip


def _overrides(config: dict[str, Any]) -> list[str]:
    """What was typed; nothing, where a folder of others says something that is no command."""
    try:
        return shlex.split(config["run"]["command"] or "")[2:]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
