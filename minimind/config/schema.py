"""Every setting of a training run and its type, registered with Hydra so that a typo fails while composing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minimind.data.config import CORPUS_CONFIGS, DataConfig
from minimind.evaluation.config import EvaluationConfig
from minimind.model.config import ModelConfig
from minimind.objectives.config import BUILT_IN, ObjectiveConfig, objective_configs
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.parallel.config import ParallelConfig
from minimind.report.config import AblationConfig
from minimind.runs.config import PathsConfig, RunConfig
from minimind.runs.stored_config import escaped, read_config
from minimind.tokenizer.config import TokenizerConfig
from minimind.training.config import RecipeConfig, TrainerConfig
from minimind.utils.errors import UserError, in_brief
from minimind.utils.settings import added_settings
from minimind.utils.user_code import how_to_allow


@dataclass
class TrainConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = MISSING
    objective: ObjectiveConfig = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)  # name → _target_ and arguments of a class
    logger: dict[str, Any] = field(default_factory=lambda: {"watch": None})  # likewise, and `watch`: what to watch
    seed: int = 1
    init_from: str | None = None  # run or checkpoint to load initial weights from
    ablation: AblationConfig | None = None  # set for a multirun, never for its runs

    @property
    def num_processes(self) -> int:
        return self.trainer.devices * self.parallel.num_nodes


@dataclass
class EvaluateTrainerConfig:
    """The trainer settings that evaluation uses."""

    accelerator: str = "auto"
    precision: str = "auto"
    num_threads: int | None = None


@dataclass
class EvaluateConfig:
    checkpoint: str = MISSING
    recipe: RecipeConfig = field(
        default_factory=RecipeConfig
    )  # the run's, which the settings of another corpus refer to
    data: DataConfig = MISSING
    trainer: EvaluateTrainerConfig = field(default_factory=EvaluateTrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


def register() -> None:
    store = ConfigStore.instance()
    train = OmegaConf.structured(TrainConfig)
    OmegaConf.set_struct(train.optim.options, False)  # names are the user's: optim.options.NAME=2 needs no +
    store.store(name="train_schema", node=train)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    for kind, config in CORPUS_CONFIGS.items():
        node = OmegaConf.structured(config)
        if kind == "mixture":
            OmegaConf.set_struct(node.sources, False)  # names are the user's: data.sources.NAME.weight=2 needs no +
        store.store(group="data", name=f"{kind}_schema", node=node)
    for kind, objective in objective_configs().items():
        store.store(group="objective", name=f"{kind}_schema", node=objective)
        if kind not in BUILT_IN:  # has no YAML here
            store.store(group="objective", name=kind, node=objective)


def added_leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings added later to the schema of this configuration: dotted name → default at their introduction."""
    schemas: dict[str, type] = {"": TrainConfig, **_chosen(config)}
    sources = config["data"].get("sources") or {}
    for name, options in sources.items():
        kind = options.get("kind") if isinstance(options, Mapping) else None
        if kind in CORPUS_CONFIGS:
            schemas[f"data.sources.{name}."] = CORPUS_CONFIGS[kind]
    return {prefix + name: default for prefix, schema in schemas.items()
            for name, default in added_settings(schema).items()}  # fmt: skip


def _chosen(config: Mapping[str, Any]) -> dict[str, type]:
    """The schemas chosen in groups with one schema per kind: prefix of the settings → dataclass."""
    groups: dict[str, Mapping[str, type]] = {"data": CORPUS_CONFIGS, "objective": objective_configs()}
    for group, known in groups.items():
        if (kind := config[group]["kind"]) not in known:
            module = str(kind).rpartition(".")[0]
            remedy = how_to_allow(module) if module else "install the package that defines it"
            raise ValueError(f"the {group} `{kind}` is not known here; {remedy}")
    return {f"{group}.": known[config[group]["kind"]] for group, known in groups.items()}


def load_stored(path: Path) -> DictConfig:
    """Load the configuration of a run or checkpoint and apply its schema.

    Raises:
        UserError: the file is missing, or this version cannot read it.
    """
    stored = read_config(path)
    try:
        schema = OmegaConf.structured(TrainConfig)
        for prefix, chosen in _chosen(stored).items():
            schema[prefix[:-1]] = chosen
        for leaf, default in added_leaves({**stored, "data": {**stored["data"], "sources": {}}}).items():
            OmegaConf.update(schema, leaf, default)  # the meaning of a configuration stored without it
        merged = OmegaConf.merge(schema, escaped(stored))
    except (ValueError, KeyError, TypeError, AttributeError, OmegaConfBaseException) as error:
        reason = in_brief(error)
        raise UserError(f"{path} must be a stored configuration that this version can read, but: {reason}.") from None
    assert isinstance(merged, DictConfig)
    return merged
