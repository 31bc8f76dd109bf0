"""Resumes a run folder by name: with its stored settings, some of which may be changed, but never with its code."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from minimind.config.classes import is_trusted
from minimind.config.plan import plain
from minimind.config.schema import TrainConfig, load_stored
from minimind.objectives.config import ObjectiveConfig
from minimind.runs.checkpoints import CONFIG
from minimind.runs.identity import is_data_path, is_hashed, is_under, leaves, may_change
from minimind.runs.stored_config import read_config
from minimind.utils.errors import ConfigError
from minimind.utils.paths import conf_dir

NAME = "resumed_run"  # Hydra configuration that `offer_stored` registers
REPLACEABLE = {"callbacks": "default", "logger": "local", "parallel": "single", "evaluation": "default"}
CLASSES = ("callbacks", "logger")
CROSS_GROUP = ("debug", "experiment", "recipe")  # groups that change settings of other groups
# Settings that do not affect a run's metrics: where it runs, how fast, and what it displays.
NO_EFFECT = ("run", "paths", "logger", "recipe", "ablation", "parallel", "callbacks.progress", "data.num_workers",
             "data.prepare_processes", "data.verify", "trainer.accelerator", "trainer.devices", "trainer.num_threads",
             "trainer.micro_batch")  # fmt: skip


def offer_stored(folder: Path, arguments: Sequence[str]) -> None:
    """Register the folder's stored configuration with Hydra as `NAME`, to which Hydra applies the typed overrides.

    Raises:
        UserError: there is none, or an override or a class that it names cannot be used.
    """
    stored = load_stored(folder / CONFIG)
    typed = _typed_keys(arguments)
    chosen = [name for name in typed if (conf_dir() / name).is_dir()]
    if refused := [name for name in chosen if name not in REPLACEABLE] + [n for n in ("run.name",) if n in typed]:
        raise ConfigError(
            [f"`{n}=` must not be given with run.resume={folder.name}: the run has its own." for n in refused]
        )
    refuse_foreign_classes({group: stored[group] for group in CLASSES if group not in chosen}, typed)
    node = OmegaConf.create({
        "defaults": [
            "_self_", *({group: REPLACEABLE[group]} for group in chosen),
            {"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"},
        ],
        "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
    })  # fmt: skip
    defaults = OmegaConf.structured(TrainConfig)  # for paths on this machine, and how to run this time
    for name in stored:
        node[name] = defaults[name] if name in ("paths", "run", *chosen) else stored[name]
    node.run.name, node.run.tag = stored.run.name, stored.run.tag
    ConfigStore.instance().store(name=NAME, node=node)


def _typed_keys(arguments: Sequence[str]) -> list[str]:
    """Keys of the overrides among the arguments.

    Raises:
        ConfigError: an argument is not an override; Hydra's message.
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
    """Check the classes of a folder, which may be untrusted: allowed are MiniMind's, Lightning's and typed ones.

    Raises:
        ConfigError: names each other class.
    """
    found = []
    for group, nodes in groups.items():
        for name, node in nodes.items():
            target = str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
            key = f"{group}.{name!s}._target_"
            if target and key not in typed and not is_trusted(target):
                found.append(
                    f"`{key}` of a run folder must be a class of MiniMind or Lightning, but is {target}; "
                    f"if you trust it, add {key}={target}."
                )
    if found:
        raise ConfigError(found)


def refuse_other_settings(config: dict[str, Any], folder: Path, step: int) -> None:
    """Check that `config` does not change settings with which a run or checkpoint was trained.

    Args:
        folder: run or checkpoint with the config.yaml to compare `config` with.
        step: number of steps that the run has completed.

    Raises:
        ConfigError: names each setting that would change.
    """
    before = load_stored(folder / CONFIG)
    stored, asked = leaves(plain(before)), leaves(config)
    frozen = _frozen(before)  # their paths may change: `check_frozen` compares their contents
    found = [
        f"`{key}` must be {stored.get(key)}, with which {folder} was trained, but is {asked.get(key)}; for a new run "
        f"from its weights use init_from={folder} instead of run.resume."
        for key in sorted(stored.keys() | asked.keys())
        if stored.get(key) != asked.get(key) and is_hashed(key) and not may_change(key) and key not in frozen
    ]
    steps = asked.get("trainer.max_steps")
    if steps is not None and steps < step:
        found.append(_too_few(steps, step))
    if found:
        raise ConfigError(found)


def _frozen(config: DictConfig) -> set[str]:
    """The settings that name the objective's frozen models."""
    objective = OmegaConf.to_object(config.objective)
    assert isinstance(objective, ObjectiveConfig)
    return {f"objective.{name}" for name in objective.frozen()}


def refuse_fewer_steps(steps: int, step: int, epochs: float | None) -> None:
    """Check that a run does not end before the steps that it has completed.

    Args:
        steps: total number of steps, from `epochs` unless that is None.
        step: number of completed steps.

    Raises:
        ConfigError: the run would end earlier.
    """
    if steps < step:
        raise ConfigError([_too_few(steps, step, epochs)])


def _too_few(steps: int, step: int, epochs: float | None = None) -> str:
    if epochs is None:
        return f"`trainer.max_steps` must be at least {step}, the number of completed steps, but is {steps}."
    return (
        f"`trainer.epochs` must be at least the {step} steps that the run has completed, but is {epochs}, which is "
        f"{steps} steps."
    )


def not_applied(config: dict[str, Any], folder: Path) -> list[str]:
    """Overrides that have no effect because the run is finished, each as `key=value (not stored value)`.

    Overrides that were also typed at the last start are not compared: a default may have changed since.
    """
    before = read_config(folder / CONFIG)  # without a schema: it may be from another version
    known = _overrides(before)
    changed = [override for override in _overrides(config) if override not in known]
    keys = [name.replace("/", ".") for name in _typed_keys(changed)]
    cross_group = bool(known) and any(name in CROSS_GROUP for name in keys)
    empty: dict[str, Any] = {}  # a group without settings
    stored, asked = ({k: v for k, v in leaves(values).items() if v != empty} for values in (before, config))
    return [
        f"{key}={asked.get(key)} (not {stored.get(key)})"
        for key in sorted(stored.keys() | asked.keys())
        if stored.get(key) != asked.get(key) and (cross_group or is_under(key, keys))
        and not (is_under(key, NO_EFFECT) or is_data_path(key))
    ]  # fmt: skip


def _overrides(config: dict[str, Any]) -> list[str]:
    """Overrides in the stored command line; empty if it is not one, as an untrusted folder may contain anything."""
    try:
        return shlex.split(config["run"]["command"] or "")[2:]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
