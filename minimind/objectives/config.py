"""Torch-free settings of each objective, and what the configuration is checked against before torch is imported."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import ClassVar

from minimind.utils.errors import ConfigError, suggestion
from minimind.utils.terminal import say
from minimind.utils.user_code import allowed, import_allowed

# Metrics of every run, and prefixes of metrics: an objective's own metrics must have other names.
RESERVED = ("loss", "weight", "tokens", "steps", "skipped", "empty", "grad_norm", "lr", "tokens_per_second", "mfu",
            "real_token_fraction", "data_wait_fraction", "checkpoint_stall_s", "loss_spike", "skipped_steps",
            "empty_steps")  # fmt: skip
RESERVED_PREFIXES = ("train/", "val/", "moe/", "data/", "memory/", "watch/")
ENTRY_POINTS = "minimind.objectives"  # group under which an installed package names the dataclasses of its objectives


@dataclass
class ObjectiveConfig:
    """Base class of an objective's settings, all of which are part of a run's identity."""

    kind: str = "???"  # set by each objective

    implementation: ClassVar[str] = ""  # module:class, imported when training starts
    accepts: ClassVar[tuple[str, ...]] = ("text",)  # kinds of records that examples can be built from
    primary: ClassVar[tuple[str, str]] = ("val/loss", "min")  # metric, and whether min or max is best
    metrics: ClassVar[tuple[str, ...]] = ()  # names allowed in `Loss.metrics`, logged as train/<name>

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)

    def frozen(self) -> dict[str, str]:
        """Models that the loss needs and that are not trained: name → run or checkpoint, as typed by the user."""
        return {}


@dataclass
class PretrainConfig(ObjectiveConfig):
    """Next-token prediction on every token that is a target."""

    kind: str = "pretrain"

    implementation: ClassVar[str] = "minimind.objectives.pretrain:Pretrain"


BUILT_IN: dict[str, type[ObjectiveConfig]] = {"pretrain": PretrainConfig}


def objective_configs() -> dict[str, type[ObjectiveConfig]]:
    """Settings classes by kind: built in, from installed packages (entry points), and from modules given by `--allow`.

    An installed one that cannot be used is skipped with a warning, so that a broken package does not affect the others.

    Raises:
        ConfigError: an allowed module cannot be imported, or its objective cannot be used.
    """
    return _objective_configs(allowed())


@cache
def _objective_configs(modules: tuple[str, ...]) -> dict[str, type[ObjectiveConfig]]:
    configs = dict(BUILT_IN)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            config = entry.load()
            if found := _unusable(entry.name, config, configs):
                raise ValueError(found)
        except Exception as error:
            say(f"Warning: the objective `{entry.name}` of {entry.value} cannot be used: {error}.", file=sys.stderr)
        else:
            configs[entry.name] = config
    for module in modules:
        for kind, config in _configs_of(import_allowed(module)).items():
            found = _unusable(kind, config, configs)
            if config.kind != kind:  # a stored configuration must say which module to allow
                found = f"its `kind` must have the default {kind!r}, but has {config.kind!r}"
            if found:
                raise ConfigError([f"The objective {kind} cannot be used: {found}."])
            configs[kind] = config
    return configs


def _configs_of(module: ModuleType) -> dict[str, type[ObjectiveConfig]]:
    """The objectives that a module defines, by the name that selects them: objective=module.Class."""
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ObjectiveConfig) and value.__module__ == module.__name__
    }


def _unusable(kind: str, config: object, known: Mapping[str, type[ObjectiveConfig]]) -> str:
    """Why `config` cannot be added to the known objectives; empty if it can."""
    if not (isinstance(config, type) and issubclass(config, ObjectiveConfig)):
        return "it is not a subclass of ObjectiveConfig"
    if kind in known:
        return "another objective already has this name"
    if taken := [name for name in config.metrics if name in RESERVED or name.startswith(RESERVED_PREFIXES)]:
        return f"its metrics must not have reserved names, but {taken[0]!r} is one"
    metric, end = config.primary
    if end not in ("min", "max") or any(
        metric == other.primary[0] and end != other.primary[1] for other in known.values()
    ):
        return f"its primary metric {metric} must be best at min or max, as for other objectives, but is best at {end}"
    return ""


def primary_of(kind: object) -> tuple[str, str]:
    """The objective's primary metric, and whether min or max is best; val/loss if the objective is not installed."""
    known = objective_configs().get(str(kind), ObjectiveConfig)
    return known.primary


def primaries() -> dict[str, str]:
    """Primary metric of each known objective → whether min or max is best; val/loss comes first."""
    return dict([ObjectiveConfig.primary, *(config.primary for config in objective_configs().values())])


def problems(cfg: ObjectiveConfig) -> list[str]:
    known = objective_configs()
    if cfg.kind not in known:
        return [f"`objective.kind` must name an objective, but is {cfg.kind}; {suggestion(cfg.kind, list(known))}"]
    if type(cfg) is not known[cfg.kind]:
        return [f"`objective.kind` {cfg.kind} has settings of its own; select it with objective={cfg.kind}."]
    return []
