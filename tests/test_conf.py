"""Settings hold together or say what does not, and each has its place in a run's identity.

That every option of `conf/` is valid is looked at where its hash is (golden/test_hashes.py).
"""

import math
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from minimind.config.checks import to_config
from minimind.config.plan import complete, plain
from minimind.config.schema import TrainConfig, register
from minimind.data.config import CORPUS_CONFIGS
from minimind.model.config import ModelConfig
from minimind.optim.config import OptimConfig
from minimind.runs.identity import HASHED, NOT_HASHED, is_hashed, run_hash
from minimind.training.config import RecipeConfig, TrainerConfig
from minimind.utils.errors import ConfigError
from minimind.utils.paths import conf_dir

NEEDED = {
    "data=text": ["data.files=[a.txt]"],
    "data=jsonl": ["data.files=[a.jsonl]"],
    "data=parquet": ["data.files=[a.parquet]"],
    "data=huggingface": ["data.dataset=a"],
    "data=mixture": ["data.sources={code:{kind:stdlib}}"],
}


def composed(*overrides: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=[*overrides, "run.name=x", "paths.root=/nowhere"])


@pytest.mark.parametrize("option", [f"data={path.stem}" for path in sorted(conf_dir().glob("data/*.yaml"))])
def test_every_corpus_is_packed_as_the_recipe_says(option: str) -> None:
    cfg = composed(option, *NEEDED.get(option, []), "recipe.document_mask=true", "recipe.sequence_length=64")
    assert (cfg.data.document_mask, cfg.data.sequence_length, cfg.data.packing.name) == (True, 64, "stream")
    assert composed(option, *NEEDED.get(option, []), "recipe.packing=pad").data.packing.name == "pad"


@pytest.mark.parametrize(
    ("name", "millions"),
    [("minimind_26m", 25.83), ("minimind_64m", 63.91), ("minimind_104m", 104.03), ("minimind_145m_moe", 145.03),
     ("minimind_198m_moe", 198.42)],
)  # fmt: skip
def test_published_sizes(name: str, millions: float) -> None:
    model = OmegaConf.to_object(composed(f"model={name}").model)
    assert isinstance(model, ModelConfig)
    assert round(model.num_parameters() / 1e6, 2) == millions


def schema_leaves(kind: Any, prefix: str = "") -> list[str]:
    found = []
    for field in fields(kind):
        nested = field.default_factory if is_dataclass(field.default_factory) else None
        found += schema_leaves(nested, f"{prefix}{field.name}.") if nested else [prefix + field.name]
    return found


def test_every_setting_stands_on_one_side_of_the_identity() -> None:
    leaves = [leaf for leaf in schema_leaves(TrainConfig) if leaf != "data"]
    leaves += [leaf for config in CORPUS_CONFIGS.values() for leaf in schema_leaves(config, "data.")]
    for leaf in leaves:
        is_hashed(leaf)  # raises where the tables say nothing
    leaves += [f"callbacks.{path.stem}" for path in (conf_dir() / "callbacks").glob("*.yaml")]  # of no schema
    for rule in (*HASHED, *NOT_HASHED):
        assert any(leaf == rule or leaf.startswith(rule + ".") for leaf in leaves), f"{rule} is no setting"


def test_docs_show_the_same_tables() -> None:
    text = (conf_dir().parent / "docs" / "runs.md").read_text(encoding="utf-8")
    hashed, not_hashed = (
        re.findall(r"`([a-z_.]+)`", row) for row in re.findall(r"^\| (?:yes|no) \| (.*) \|$", text, re.M)
    )
    assert hashed == list(HASHED)
    assert not_hashed == list(NOT_HASHED)


def container(*overrides: str) -> dict[str, Any]:
    return plain(composed(*overrides))


def test_identity_changes_with_what_changes_figures_only() -> None:
    same = run_hash(container())
    assert run_hash(container("trainer.micro_batch=4", "data.num_workers=2", "logger=wandb", "run.fresh=true")) == same
    assert run_hash(container("logger=[local,csv]", "logger.watch=all", "callbacks=[default,memory]")) == same
    for override in ("seed=2", "optim.lr=1e-4", "run.tag=b", "trainer.precision=32-true", "data.sequence_length=128",
                     "callbacks=[default,early_stopping]"):  # fmt: skip
        assert run_hash(container(override)) != same


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["model.num_key_value_heads=3"], ["must be a multiple of `num_key_value_heads` (3), but is 2"]),
        (["model.num_attention_heads=3"], ["must be a multiple of `num_attention_heads` (3), but is 128"]),
        (["model.head_dim=33"], ["`head_dim`", "must be even for RoPE, but is 33"]),
        (["data.sequence_length=4096"], ["`data.sequence_length` must be at most", "but is 4096"]),
        (["trainer.batch_tokens=1000"], ["`trainer.batch_tokens` must be a multiple", "but is 1000"]),
        (["tokenizer.vocab_size=9000"], ["must be at most `model.vocab_size` (4096), but is 9000"]),
        (["+model.colour=red"], ["`model.colour` is not a setting"]),
        (["trainer.precision=bf17"], ["`trainer.precision` must be one of", "but is bf17"]),
        (["trainer.checkpoint_every_minutes=0"], ["`trainer.checkpoint_every_minutes` must be above 0", "but is 0"]),
        (["trainer.keep_every_steps=7"], ["must be a multiple of `trainer.checkpoint_every_steps` (750)"]),
        (["trainer.max_nonfinite_steps=0"], ["`trainer.max_nonfinite_steps` must be at least 1, but is 0"]),
        (["optim.momentum=0.9"], ["`optim.momentum` must be null with optim=adamw, but is 0.9"]),
        (["optim=muon", "optim.momentum=1"], ["`optim.momentum` must be from 0 to below 1", "but is 1.0"]),
        (["schedule=wsd", "schedule.decay_fraction=0"], ["`schedule.decay_fraction` must be above 0", "but is 0.0"]),
        (["schedule.warmup_steps=99999"], ["`schedule.warmup_steps` must be between 0 and"]),
        (["logger.watch=wieghts"], ["`logger.watch` must be one of gradients", "but is wieghts"]),
        (["callbacks=moe_load"], ["`callbacks` must not have moe_load for a model without experts"]),
        (["trainer.devices=2"], ["`trainer.devices` must be 1 with parallel=single, but is 2"]),
    ],
)  # fmt: skip
def test_broken_rules_say_what_holds_what_is_and_what_to_do(overrides: list[str], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        to_config(composed(*overrides))
    for message in messages:
        assert message in str(caught.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        to_config(composed("model.num_key_value_heads=3", "optim.lr=-1", "trainer.devices=0", "+data.files=[a]"))
    assert len(caught.value.problems) == 4


def test_conf_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (conf_dir() / "train.yaml").is_file()


SIZES = [path.stem for path in sorted(conf_dir().glob("model/*.yaml")) if path.stem != "nano"]


@pytest.mark.parametrize("model", SIZES)
def test_the_recipe_of_a_size_follows_the_rule_in_the_readme(model: str) -> None:
    cfg = composed(f"model={model}")
    parameters = OmegaConf.to_object(cfg.model).num_parameters(active=True)
    recipe = OmegaConf.to_container(cfg.recipe)
    assert recipe["batch_tokens"] == max(2**17, 2 ** round(math.log2(2**19 * parameters / 124e6)))
    steps = 20 * parameters / recipe["batch_tokens"]
    assert recipe["max_steps"] == round(steps, -2)
    assert recipe["warmup_steps"] == 50 * round(0.05 * steps / 50)
    assert recipe["lr"] == float(f"{0.003239 - 0.0001395 * math.log(parameters):.1e}")
    rest = {"sequence_length": 512, "beta2": 0.95, "final_lr_ratio": 0.1, "embedding_lr_ratio": 1.0}
    assert rest.items() <= recipe.items()


def test_every_model_has_a_recipe() -> None:
    names = [{path.stem for path in conf_dir().glob(f"{group}/*.yaml")} for group in ("model", "recipe")]
    assert names[0] == names[1]


def test_defaults_of_dataclasses_agree() -> None:
    """Those of the recipe are minimind_26m's, and the groups that refer to a recipe have the same."""
    cfg = composed("model=minimind_26m")
    assert OmegaConf.to_object(cfg.recipe) == RecipeConfig()
    assert OmegaConf.to_object(cfg.optim) == OptimConfig()
    assert OmegaConf.to_object(cfg.trainer) == TrainerConfig()


def test_an_existing_tokenizer_makes_the_same_run_however_it_is_named() -> None:
    choices = {"model": "nano", "data": "stdlib"}
    node = OmegaConf.create({"runtime": {"choices": choices, "config_sources": []}, "overrides": {"task": []}})
    hashes = set()
    for overrides in (["tokenizer=file"], [], ["tokenizer.split_digits=true"]):
        cfg = composed(*overrides, "tokenizer.path=t.json")
        complete(cfg, node)
        hashes.add(run_hash(plain(cfg)))
    assert len(hashes) == 1
