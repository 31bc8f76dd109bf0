"""Golden hashes: a setting that is added later must not change the identity of runs that do not use it.

Composing is the slowest part of these tests, so other checks of every option of `conf/` are made here, too.
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
def test_a_configuration_is_valid_and_keeps_its_hash(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMIND_ALLOW", "torch.optim")  # for optim=own
    settings = composed(overrides)
    container = plain(settings)
    assert run_hash(container) == RECORDED[overrides]
    hashed = [value for leaf, value in leaves(container).items() if is_hashed(leaf)]
    assert not [value for value in hashed if isinstance(value, str) and Path(value).is_absolute()]  # machine-specific
    if overrides == ("callbacks=moe_load",):  # which requires experts
        settings.model.num_experts = 2
    to_config(settings)


def test_every_option_has_its_golden_hash() -> None:
    missing = [overrides for overrides in configurations() if overrides not in RECORDED]
    assert not missing, "python tests/golden/hashes.py adds the hashes of new options"


def test_paths_are_not_part_of_the_identity() -> None:
    assert run_hash(container_of((), root="/another/place")) == RECORDED[()]


def mixture(options: str = "") -> tuple[str, ...]:
    return ("data=mixture", MIXED.format(options))


def as_mixture_source(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Move settings of data=jsonl into a source of a mixture."""
    return mixture("".join(f", {one.removeprefix('data.').replace('=', ': ')}" for one in overrides))


def as_jsonl(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return (*JSONL, *overrides)


plain_and_in_mixture = pytest.mark.parametrize("with_options", [as_jsonl, as_mixture_source])


@plain_and_in_mixture
def test_a_setting_added_later_affects_the_hash_only_when_used(with_options: Any) -> None:
    unused = run_hash(container_of(with_options(())))
    assert run_hash(container_of(with_options(("data.prompt_field=null",)))) == unused
    assert run_hash(container_of(with_options(("data.prompt_field=question",)))) != unused


@plain_and_in_mixture
def test_a_stored_configuration_without_the_setting_loads_unchanged(with_options: Any, tmp_path: Path) -> None:
    config = container_of(with_options(()))
    assert "prompt_field" not in str(config)
    write_config(tmp_path / "config.yaml", config)
    stored = load_stored(tmp_path / "config.yaml")
    assert plain(stored) == config
    data = OmegaConf.to_object(stored.data)
    source = data.weighted_sources()["talk"][1] if isinstance(data, MixtureConfig) else data
    assert isinstance(source, JsonlConfig)
    assert source.prompt_field is None


def test_an_explicit_default_gives_the_same_hash(tmp_path: Path) -> None:
    config = container_of(JSONL)
    explicit = {**config, "data": {**config["data"], "prompt_field": None}}
    write_config(tmp_path / "config.yaml", explicit)
    assert run_hash(plain(load_stored(tmp_path / "config.yaml"))) == RECORDED[JSONL]


@pytest.mark.parametrize("stored_with", [(), ("data.prompt_field=question",)])
def test_a_resumed_run_may_not_change_the_setting(stored_with: tuple[str, ...], tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", container_of(as_jsonl(stored_with)))
    refuse_other_settings(container_of(as_jsonl(stored_with)), tmp_path, step=0)
    with pytest.raises(ConfigError, match=r"`data\.prompt_field` must be (None|question), .* but is answer"):
        refuse_other_settings(container_of(as_jsonl(("data.prompt_field=answer",))), tmp_path, step=0)


@dataclass
class LaterConfig(JsonlConfig):
    """A future schema in which the default of an added option has changed again."""

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


@plain_and_in_mixture
@pytest.mark.usefixtures("later")
def test_the_default_at_introduction_is_left_out(with_options: Any, tmp_path: Path) -> None:
    before = RECORDED[JSONL] if with_options is as_jsonl else run_hash(container_of(as_mixture_source(())))
    assert run_hash(container_of(with_options(("data.order=old", "data.tags=[]", "data.cut=pad")))) == before
    for option in ("data.order=new", "data.order=old,data.tags=[a]", "data.order=old,data.cut=stream"):
        assert run_hash(container_of(with_options(tuple(option.split(","))))) != before
    assert run_hash(container_of(JSONL)) == run_hash(container_of(as_jsonl(("data.order=new",)))) != RECORDED[JSONL]
    config = container_of(with_options(("data.order=old",)))
    write_config(tmp_path / "config.yaml", config)
    stored = load_stored(tmp_path / "config.yaml")
    data = OmegaConf.to_object(stored.data)
    source = data.weighted_sources()["talk"][1] if isinstance(data, MixtureConfig) else data
    assert isinstance(source, LaterConfig)
    assert (source.order, source.tags, source.cut) == ("old", [], Packing.pad)
    assert plain(stored) == config


def test_a_group_of_only_unused_settings_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
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
