"""What composition must know of an objective before torch is imported: one dataclass each."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar

from minimind.utils.errors import ConfigError, suggestion

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


@cache
def objective_configs() -> dict[str, type[ObjectiveConfig]]:
    """By kind: ours, and those of the installed packages that have entry points in `minimind.objectives`."""
    installed = {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS)}
    return {**installed, **BUILT_IN}


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
