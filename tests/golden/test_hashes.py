"""Golden hashes: no setting that is added later may rename a run that does not use it.

Each composition is the dearest part of a test, so what else holds of every option of `conf/` is looked at here, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hashes import composed, configurations, container_of, hydra, recorded
from omegaconf import OmegaConf

from minimind.config.checks import to_config
from minimind.config.plan import plain
from minimind.config.resume import refuse_other_settings
from minimind.config.schema import TrainConfig, load_stored, register
from minimind.data.config import CORPUS_CONFIGS, JsonlConfig, MixtureConfig, Packing
from minimind.runs.identity import is_hashed, leaves, run_hash
from minimind.runs.stored_config import write_config
from minimind.utils.errors import ConfigError
from minimind.utils.settings import added, added_settings

RECORDED = recorded()
JSONL = ("data=jsonl", "data.files=[a.jsonl]")
MIXED = "data.sources={{talk: {{kind: jsonl, files: [a.jsonl]{}}}, code: {{kind: stdlib}}}}"


@pytest.fixture(scope="module", autouse=True)
def _composing() -> Iterator[None]:
    with hydra():
        yield


@pytest.mark.parametrize("overrides", list(RECORDED), ids=" ".join)
def test_a_configuration_is_valid_and_the_run_that_it_was(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMIND_ALLOW", "torch.optim")  # for optim=own
    settings = composed(overrides)
    container = plain(settings)
    assert run_hash(container) == RECORDED[overrides]
    hashed = [value for leaf, value in leaves(container).items() if is_hashed(leaf)]
    assert not [value for value in hashed if isinstance(value, str) and Path(value).is_absolute()]  # of no machine
    if overrides == ("callbacks=moe_load",):  # of which there are no experts to load
        settings.model.num_experts = 2
    to_config(settings)


def test_every_option_has_its_golden_hash() -> None:
    missing = [overrides for overrides in configurations() if overrides not in RECORDED]
    assert not missing, "python tests/golden/hashes.py adds the hashes of new options"


def test_places_are_no_part_of_the_identity() -> None:
    assert run_hash(container_of((), root="/another/place")) == RECORDED[()]


def mixture(options: str = "") -> tuple[str, ...]:
    return ("data=mixture", MIXED.format(options))


def in_a_source(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What is set of data=jsonl, set in a source of a mixture."""
    return mixture("".join(f", {one.removeprefix('data.').replace('=', ': ')}" for one in overrides))


def of_jsonl(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return (*JSONL, *overrides)


Places = pytest.mark.parametrize("with_options", [of_jsonl, in_a_source])


@Places
def test_a_setting_that_was_added_later_counts_once_it_is_used(with_options: Any) -> None:
    unused = run_hash(container_of(with_options(())))
    assert run_hash(container_of(with_options(("data.prompt_field=null",)))) == unused
    assert run_hash(container_of(with_options(("data.prompt_field=question",)))) != unused


@Places
def test_a_configuration_without_it_loads_and_hashes_alike(with_options: Any, tmp_path: Path) -> None:
    config = container_of(with_options(()))
    assert "prompt_field" not in str(config)
    write_config(tmp_path / "config.yaml", config)
    stored = load_stored(tmp_path / "config.yaml")
    assert plain(stored) == config
    data = OmegaConf.to_object(stored.data)
    source = data.weighted_sources()["talk"][1] if isinstance(data, MixtureConfig) else data
    assert isinstance(source, JsonlConfig)
    assert source.prompt_field is None


def test_a_configuration_that_says_so_explicitly_is_the_same(tmp_path: Path) -> None:
    config = container_of(JSONL)
    explicit = {**config, "data": {**config["data"], "prompt_field": None}}
    write_config(tmp_path / "config.yaml", explicit)
    assert run_hash(plain(load_stored(tmp_path / "config.yaml"))) == RECORDED[JSONL]


@pytest.mark.parametrize("stored_with", [(), ("data.prompt_field=question",)])
def test_a_resumed_run_may_not_change_it(stored_with: tuple[str, ...], tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", container_of(of_jsonl(stored_with)))
    refuse_other_settings(container_of(of_jsonl(stored_with)), tmp_path, step=0)
    with pytest.raises(ConfigError, match=r"`data\.prompt_field` must be (None|question), .* but is answer"):
        refuse_other_settings(container_of(of_jsonl(("data.prompt_field=answer",))), tmp_path, step=0)


@dataclass
class LaterConfig(JsonlConfig):
    """A schema to come, in which the default of an option that was added later has changed once more."""

    order: str = added("new", introduced="old")
    tags: list[str] = added([])
    cut: Packing = added(Packing.pad)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(CORPUS_CONFIGS, "jsonl", LaterConfig)
        register()
        yield
    register()


@Places
@pytest.mark.usefixtures("later")
def test_the_default_of_the_introduction_is_the_one_left_out(with_options: Any, tmp_path: Path) -> None:
    before = RECORDED[JSONL] if with_options is of_jsonl else run_hash(container_of(in_a_source(())))
    assert run_hash(container_of(with_options(("data.order=old", "data.tags=[]", "data.cut=pad")))) == before
    for option in ("data.order=new", "data.order=old,data.tags=[a]", "data.order=old,data.cut=stream"):
        assert run_hash(container_of(with_options(tuple(option.split(","))))) != before
    assert run_hash(container_of(JSONL)) == run_hash(container_of(of_jsonl(("data.order=new",)))) != RECORDED[JSONL]
    config = container_of(with_options(("data.order=old",)))
    write_config(tmp_path / "config.yaml", config)
    stored = load_stored(tmp_path / "config.yaml")
    data = OmegaConf.to_object(stored.data)
    source = data.weighted_sources()["talk"][1] if isinstance(data, MixtureConfig) else data
    assert isinstance(source, LaterConfig)
    assert (source.order, source.tags, source.cut) == ("old", [], Packing.pad)
    assert plain(stored) == config


def test_a_group_that_holds_nothing_else_is_left_out_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Adapter:
        kind: str = added("none")
        rank: int = added(8)

    @dataclass
    class Later(TrainConfig):
        adapter: Adapter = field(default_factory=Adapter)

    assert {"adapter.kind": "none", "adapter.rank": 8}.items() <= added_settings(Later).items()
    monkeypatch.setattr("minimind.config.schema.TrainConfig", Later)
    config = OmegaConf.create(container_of(()))
    config.adapter = Adapter()
    assert run_hash(plain(config)) == RECORDED[()]
    config.adapter.rank = 4
    assert plain(config)["adapter"] == {"rank": 4}
