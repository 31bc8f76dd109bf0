"""State names and exit codes are defined in one file, and the docs agree with it."""

import ast
import re
from pathlib import Path

import pytest

from minimind.cli import help as help_pages
from minimind.runs.states import Exit, JobState, RunState

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RUNS_PAGE = (REPOSITORY / "docs" / "runs.md").read_text(encoding="utf-8")
NAMES = {name for states in (RunState, Exit, JobState) for name in states.__members__} | {"EX_TEMPFAIL"}
STORED = [RunState.RUNNING, RunState.FINISHED, RunState.PREEMPTED, RunState.FAILED]


def test_docs_have_the_exit_codes() -> None:
    (table,) = re.findall(r"\| exit code \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", RUNS_PAGE)
    assert [int(line.split("|")[1]) for line in table.splitlines()] == list(Exit)
    (listed,) = re.findall(r"Exit codes: (.*)", Path(help_pages.__file__).read_text(encoding="utf-8"))
    assert [int(number) for number in re.findall(r"\d+", listed)] == list(Exit)


def test_docs_have_the_run_states() -> None:
    (listed,) = re.findall(r"`status.json` \| state \((.*?)\)", RUNS_PAGE)
    assert re.findall(r"`([^`]+)`", listed) == STORED
    assert f"`{RunState.INTERRUPTED}` is a run that was killed" in RUNS_PAGE.replace("\n", " ")


@pytest.mark.parametrize(
    ("returncode", "state"),
    [(0, "finished"), (75, "stopped"), (1, "failed"), (2, "failed"), (-9, "failed"), (3, "failed")],
)
def test_job_state_after_exit_code(returncode: int, state: str) -> None:
    assert JobState.after(returncode) == state


def test_no_other_file_defines_a_state_or_an_exit_code() -> None:
    """Neither as a constant nor as a string."""
    for path in (REPOSITORY / "minimind").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "states.py":
            continue
        constants = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        values = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not constants & NAMES, path
        assert not {value for value in values if value in STORED}, path
