"""A run's label is the name of a folder on any file system."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minimind.config.plan import complete
from minimind.runs.config import LONGEST_NAME, RunConfig
from minimind.utils.errors import ConfigError

UNSEEN = [
    "\u200b", "\u00ad", "\ufeff", "\u2060", "\u2064", "\U000e0041", "\U000e0001",  # format characters
    "\u3164", "\u115f", "\uffa0", "\u2800", "\u034f", "\u180e",  # fillers
    "\u200d", "\u200c", "\ufe0f", "\U000e0100",  # joiners and variants, of nothing that has any
    "\u00a0", "\u3000", "\u2003",  # blanks of other widths
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../a", ".a", "a\\b", "a\nb", "a\tb", "\x1b]0;x\x07", "a\u202eb", "\udcff", "é" * 101, "-a", "--help",
     " ", "   ", *UNSEEN],
)  # fmt: skip
def test_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^`run.name` must .*; ") as refused:
        RunConfig(name=name)
    assert str(refused.value).isascii()


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
def test_a_tag_is_seen(unseen: str) -> None:
    for tag in (unseen, f"a{unseen}b", f"a{unseen}"):
        with pytest.raises(ConfigError, match=r"^`run.tag` must be one line of characters that are seen"):
            RunConfig(tag=tag)


@pytest.mark.parametrize(
    "name",
    ["nano-stdlib", "naïve 日本 [1]", "a.b_c=1", "x" * LONGEST_NAME, None, "می\u200cخواهم", "👩\u200d🚀", "❤\ufe0f"],
)
def test_accepted_by_the_file_system(name: str | None, tmp_path: Path) -> None:
    RunConfig(name=name)
    (tmp_path / f"{name}-01234567.old-1000").mkdir()


def test_a_tag_is_a_line_and_all_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig(name=".", tag="\x9b2J", max_minutes=0)
    assert [problem.split("`")[1] for problem in refused.value.problems] == ["run.name", "run.tag", "run.max_minutes"]
    RunConfig(tag="seed 3, again")


def test_the_label_of_an_option_in_a_folder_is_one_folder() -> None:
    composed = OmegaConf.create({"run": {"name": None, "command": None}, "paths": {"root": "."}, "logger": {}})
    choices = {"model": "mine/big", "data": "text"}
    complete(
        composed, OmegaConf.create({"runtime": {"choices": choices, "config_sources": []}, "overrides": {"task": []}})
    )
    assert composed.run.name == "mine-big-text"
