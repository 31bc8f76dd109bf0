"""What composition must know of an objective before torch is imported: one dataclass each."""

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

# Metrics of every run, and families of them, whose names an objective's own must not take.
RESERVED = ("loss", "weight", "tokens", "steps", "skipped", "empty", "grad_norm", "lr", "tokens_per_second", "mfu",
            "real_token_fraction", "data_wait_fraction", "checkpoint_stall_s", "loss_spike", "skipped_steps",
            "empty_steps")  # fmt: skip
FAMILIES = ("train/", "val/", "moe/", "data/", "memory/", "watch/")
ENTRY_POINTS = "minimind.objectives"  # group under which an installed package names the dataclasses of its objectives


@dataclass
class ObjectiveConfig:
    """Base of the settings of an objective, which are hashed."""

    kind: str = "???"  # set by each objective

    implementation: ClassVar[str] = ""  # module:class, imported when training starts
    accepts: ClassVar[tuple[str, ...]] = ("text",)  # kinds of records that examples are made of
    primary: ClassVar[tuple[str, str]] = ("val/loss", "min")  # metric, and which end of it is best
    metrics: ClassVar[tuple[str, ...]] = ()  # names of what `Loss.metrics` may hold, logged as train/<name>

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)

    def frozen(self) -> dict[str, str]:
        """Models that the loss needs and that are not trained: name → run or checkpoint, as it was typed."""
        return {}


@dataclass
class PretrainConfig(ObjectiveConfig):
    """Next-token prediction on every token that is a target."""

    kind: str = "pretrain"

    implementation: ClassVar[str] = "minimind.objectives.pretrain:Pretrain"


BUILT_IN: dict[str, type[ObjectiveConfig]] = {"pretrain": PretrainConfig}


def objective_configs() -> dict[str, type[ObjectiveConfig]]:
    """By kind: ours, those of installed packages (entry points in `minimind.objectives`) and of allowed modules.

    An installed one that cannot be used is left out with a warning, so that no package stands in the way of others.

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
    """The objectives that a module defines, by the name under which they are chosen: objective=module.Class."""
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ObjectiveConfig) and value.__module__ == module.__name__
    }


def _unusable(kind: str, config: object, known: Mapping[str, type[ObjectiveConfig]]) -> str:
    """Why it cannot be an objective beside those known; nothing if it can."""
    if not (isinstance(config, type) and issubclass(config, ObjectiveConfig)):
        return "it is no subclass of ObjectiveConfig"
    if kind in known:
        return "there is one of this name already"
    if taken := [name for name in config.metrics if name in RESERVED or name.startswith(FAMILIES)]:
        return f"its metrics must have names of their own, but {taken[0]!r} is not"
    metric, end = config.primary
    if end not in ("min", "max") or any(metric == one.primary[0] and end != one.primary[1] for one in known.values()):
        return f"its primary metric {metric} must be best at min or max, and at the same end as elsewhere, but is {end}"
    return ""


def primary_of(kind: object) -> tuple[str, str]:
    """The metric that a run of this objective is judged by, and its best end; the usual one if it is not installed."""
    known = objective_configs().get(str(kind), ObjectiveConfig)
    return known.primary


def primaries() -> dict[str, str]:
    """Every metric that an objective here is judged by → the best end of it; the usual one comes first."""
    return dict([ObjectiveConfig.primary, *(config.primary for config in objective_configs().values())])


def problems(cfg: ObjectiveConfig) -> list[str]:
    known = objective_configs()
    if cfg.kind not in known:
        return [f"`objective.kind` must name an objective, but is {cfg.kind}; {suggestion(cfg.kind, list(known))}"]
    if type(cfg) is not known[cfg.kind]:
        return [f"`objective.kind` comes with settings of its own; choose it with objective={cfg.kind}."]
    return []
