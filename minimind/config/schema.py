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
    callbacks: dict[str, Any] = field(default_factory=dict)  # third-party classes: name → _target_ and arguments
    logger: dict[str, Any] = field(default_factory=lambda: {"watch": None})  # likewise; and what is watched
    seed: int = 1
    init_from: str | None = None  # a run or checkpoint whose weights to start from
    ablation: AblationConfig | None = None  # of a multirun; the runs themselves have none

    @property
    def num_processes(self) -> int:
        return self.trainer.devices * self.parallel.num_nodes


@dataclass
class EvaluateTrainerConfig:
    """Of the trainer's settings those that matter when nothing is trained."""

    accelerator: str = "auto"
    precision: str = "auto"
    num_threads: int | None = None


@dataclass
class EvaluateConfig:
    checkpoint: str = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)  # what another corpus refers to: the run's
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
    """Leaf → default at its introduction, of what was added later to the schema of this configuration."""
    schemas: dict[str, type] = {"": TrainConfig, **_chosen(config)}
    sources = config["data"].get("sources") or {}
    for name, options in sources.items():
        kind = options.get("kind") if isinstance(options, Mapping) else None
        if kind in CORPUS_CONFIGS:
            schemas[f"data.sources.{name}."] = CORPUS_CONFIGS[kind]
    return {prefix + name: default for prefix, schema in schemas.items()
            for name, default in added_settings(schema).items()}  # fmt: skip


def _chosen(config: Mapping[str, Any]) -> dict[str, type]:
    """The schemas of the groups that have one for each kind, by their prefix."""
    groups: dict[str, Mapping[str, type]] = {"data": CORPUS_CONFIGS, "objective": objective_configs()}
    for group, known in groups.items():
        if (kind := config[group]["kind"]) not in known:
            module = str(kind).rpartition(".")[0]
            remedy = how_to_allow(module) if module else "a package that has it may have to be installed"
            raise ValueError(f"the {group} `{kind}` is not known here; {remedy}")
    return {f"{group}.": known[config[group]["kind"]] for group, known in groups.items()}


def load_stored(path: Path) -> DictConfig:
    """The configuration of a run or a checkpoint, under its schema again.

    Raises:
        UserError: there is none, or it is none of this version's.
    """
    stored = read_config(path)
    try:
        schema = OmegaConf.structured(TrainConfig)
        for prefix, chosen in _chosen(stored).items():
            schema[prefix[:-1]] = chosen
        for leaf, default in added_leaves({**stored, "data": {**stored["data"], "sources": {}}}).items():
            OmegaConf.update(schema, leaf, default)  # what was stored without it meant this
        merged = OmegaConf.merge(schema, escaped(stored))
    except (ValueError, KeyError, TypeError, AttributeError, OmegaConfBaseException) as error:
        said = in_brief(error)
        raise UserError(f"{path} must be a configuration that this version knows, but: {said}.") from None
    assert isinstance(merged, DictConfig)
    return merged
