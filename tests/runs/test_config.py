"""A run's name is a valid folder name on any file system."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minimind.config.plan import complete
from minimind.runs.config import MAX_NAME_BYTES, RunConfig
from minimind.utils.errors import ConfigError

INVISIBLE = [
    "\u200b", "\u00ad", "\ufeff", "\u2060", "\u2064", "\U000e0041", "\U000e0001",  # format characters
    "\u3164", "\u115f", "\uffa0", "\u2800", "\u034f", "\u180e",  # fillers
    "\u200d", "\u200c", "\ufe0f", "\U000e0100",  # joiners and variation selectors without a base character
    "\u00a0", "\u3000", "\u2003",  # spaces of other widths
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../a", ".a", "a\\b", "a\nb", "a\tb", "\x1b]0;x\x07", "a\u202eb", "\udcff", "é" * 101, "-a", "--help",
     " ", "   ", *INVISIBLE],
)  # fmt: skip
def test_invalid_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^`run.name` must .*; ") as refused:
        RunConfig(name=name)
    assert str(refused.value).isascii()


@pytest.mark.parametrize("invisible", INVISIBLE, ids=ascii)
def test_tag_must_be_visible(invisible: str) -> None:
    for tag in (invisible, f"a{invisible}b", f"a{invisible}"):
        with pytest.raises(ConfigError, match=r"^`run.tag` must be one line of visible characters"):
            RunConfig(tag=tag)


@pytest.mark.parametrize(
    "name",
    ["nano-stdlib", "naïve 日本 [1]", "a.b_c=1", "x" * MAX_NAME_BYTES, None, "می\u200cخواهم", "👩\u200d🚀", "❤\ufe0f"],
)
def test_valid_names(name: str | None, tmp_path: Path) -> None:
    RunConfig(name=name)
    (tmp_path / f"{name}-01234567.old-1000").mkdir()


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig(name=".", tag="\x9b2J", max_minutes=0)
    assert [problem.split("`")[1] for problem in refused.value.problems] == ["run.name", "run.tag", "run.max_minutes"]
    RunConfig(tag="seed 3, again")


def test_option_in_a_subfolder_gives_a_valid_name() -> None:
    run = {"name": None, "command": None}
    composed = OmegaConf.create({"run": run, "paths": {"root": "."}, "logger": {}, "tokenizer": {"path": None}})
    choices = {"model": "mine/big", "data": "text"}
    complete(
        composed, OmegaConf.create({"runtime": {"choices": choices, "config_sources": []}, "overrides": {"task": []}})
    )
    assert composed.run.name == "mine-big-text"
