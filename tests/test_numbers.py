"""NaN and infinity are rejected in every setting, whatever its source: NaN would pass every comparison."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minimind.cli import evaluate, main, train
from minimind.config.checks import to_config
from minimind.config.schema import register
from minimind.generation.sampling import SamplingConfig
from minimind.model.config import ModelConfig, YarnConfig
from minimind.sweep.run import ablation_of
from minimind.utils.errors import ConfigError
from minimind.utils.paths import conf_dir
from minimind.utils.settings import not_finite, type_problems

NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=["paths.root=/nowhere", "ablation=qk_norm"])


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        inner = node._get_node(key)
        if isinstance(inner, DictConfig) and not inner._is_none():
            yield from leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_numeric_setting_rejects_nan_and_infinity(composed: DictConfig) -> None:
    rejected = set()
    for leaf, value in zip(leaves(composed), cycle(NOT_FINITE), strict=False):
        changed = composed.copy()
        try:
            OmegaConf.update(changed, leaf, value)
        except OmegaConfBaseException:  # an integer, a choice, a list
            continue
        if isinstance(OmegaConf.select(changed, leaf), str):
            continue
        with pytest.raises(ConfigError, match=f"`{leaf}` must be a finite number, but is {value}") as raised:
            to_config(changed)
        rejected.add(leaf)
        (problem,) = (p for p in raised.value.problems if p.startswith((f"`{leaf}`", f"`{leaf.partition('.')[2]}`")))
        assert problem.endswith(f"is {value}.")
    assert rejected >= {"optim.lr", "optim.weight_decay", "model.dropout", "model.rope_scaling.factor", "recipe.lr",
                       "trainer.gradient_clip", "evaluation.top_p", "run.max_minutes"}  # fmt: skip


def test_lists_and_callback_arguments_are_checked_too(composed: DictConfig) -> None:
    changed = composed.copy()
    changed.optim.betas = [0.9, math.nan]
    OmegaConf.update(changed, "callbacks.progress.every", math.inf, force_add=True)
    with pytest.raises(ConfigError) as raised:
        to_config(changed)
    problems = "\n".join(raised.value.problems)
    assert "`optim.betas[1]` must be a finite number, but is nan." in problems
    assert "`callbacks.progress.every` must be a finite number, but is inf." in problems


def test_ablation_margin_is_checked(composed: DictConfig) -> None:
    changed = composed.copy()
    changed.ablation.margin = math.nan
    with pytest.raises(ConfigError, match=r"`ablation\.margin` must be a finite number, but is nan"):
        ablation_of(changed)


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (train, ["optim.lr=nan", "model.rms_norm_eps=nan"], "`optim.lr` must be a finite number"),
        (main, ["generate", "RUN", "--prompt", "a", "--temperature", "nan"], "`temperature` must be a finite number"),
        (main, ["generate", "RUN", "--prompt", "a", "--top-p", "nan"], "`top_p` must be a finite number"),
        (main, ["generate", "RUN", "--prompt", "a", "--yarn", "nan"], "`rope_scaling.factor` must be a finite number"),
        (main, ["generate", "RUN", "--prompt", "a", "--yarn", "1e300"], "`rope_scaling.factor` must be at most"),
        (evaluate, ["checkpoint=RUN", "recipe.lr=inf"], "`recipe.lr` must be a finite number"),
    ],
)
def test_command_line_arguments_are_checked(
    program: Any, arguments: list[str], words: str, small_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["program", *(a.replace("RUN", str(small_run)) for a in arguments)])
    assert program.main() == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


NUMBERS = [f.name for f in fields(ModelConfig) if f.type in (float, float | None)]


@given(st.sampled_from(NUMBERS), st.sampled_from(NOT_FINITE))
@settings(max_examples=60, deadline=None)
def test_dataclasses_used_directly_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be a finite number, but is {value}"):
        ModelConfig(**{name: value})
    with pytest.raises(ConfigError, match=r"`rope_scaling\.beta_fast` must be a finite number"):
        ModelConfig(rope_scaling=YarnConfig(beta_fast=value))
    with pytest.raises(ConfigError, match="`temperature` must be a finite number"):
        SamplingConfig(temperature=value)


SMALL_OR_HUGE = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=3), st.none(), st.lists(st.integers(), max_size=2),
    st.sampled_from([10**9, 2**24, 10**30, 10**400, 1e300, -1, 0, 1e-300]),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([f.name for f in fields(ModelConfig)]), SMALL_OR_HUGE, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_model_config_is_rejected_or_can_be_counted(values: dict[str, Any]) -> None:
    try:
        cfg = ModelConfig(**values)
    except ConfigError as error:
        assert error.problems  # noqa: PT017
    else:
        assert 0 < cfg.num_parameters() <= 2**40
        assert math.isfinite(cfg.flops_per_token(1024))
        assert 0 < cfg.context_length <= 2**24


@dataclass
class Kinds:
    count: int = 1
    rate: float | None = None
    switch: bool = False
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"count": 2, "rate": 3, "switch": True, "names": ["a"]}, None),
        ({"rate": None}, None),
        ({"count": True}, "`count` must be an integer, but is True."),
        ({"count": 1.0}, "`count` must be an integer, but is 1.0."),
        ({"rate": "1"}, "`rate` must be a number, but is '1'."),
        ({"switch": 0}, "`switch` must be true or false, but is 0."),
        ({"names": "ab"}, "`names` must be a list of strings, but is 'ab'."),
        ({"names": ["a", 1]}, "`names` must be a list of strings, but is ['a', 1]."),
    ],
)
def test_types_are_checked(values: dict[str, Any], complaint: str | None) -> None:
    assert type_problems(Kinds, values) == ([] if complaint is None else [complaint])


def test_non_finite_numbers_are_found_at_any_depth() -> None:
    value = {"a": [1.0, {"b": math.nan}], "c": Kinds(rate=math.inf), "d": "nan"}
    assert [problem.split("`")[1] for problem in not_finite(value)] == ["a[1].b", "c.rate"]
