"""Objectives of another package: they train, resume bit for bit after a kill, and split a step between ranks.

`made/` is on the path as an installed package would be; MiniMind does not import it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from minimind.cli import train
from minimind.config.resume import refuse_other_settings
from minimind.objectives.config import _objective_configs, objective_configs
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.runs.stored_config import write_config
from minimind.utils.errors import ConfigError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PATHS = os.pathsep.join(map(str, (REPOSITORY, HERE / "made")))
STEPS = 24
TIMES = {"elapsed_s", "train/tokens_per_second", "train/mfu", "train/data_wait_fraction", "train/checkpoint_stall_s"}
TRAINER = [
    "trainer.batch_tokens=192", f"trainer.max_steps={STEPS}", "trainer.log_every_steps=2", "trainer.num_threads=1",
    "trainer.validate_every_steps=8", "trainer.checkpoint_every_steps=2", "trainer.precision=32-true",
    "schedule.warmup_steps=2", "optim.lr=3e-3",
]  # fmt: skip
ALONE = ["trainer.micro_batch=2"]  # three micro-batches of 2 per step; with two ranks, three of 1 each
TWO_RANKS = ["parallel=ddp", "trainer.devices=2", "trainer.micro_batch=1"]
MOE = ["model.num_experts=4", "model.num_experts_per_tok=2", "model.moe_intermediate_size=32", "model.dropout=0.1"]


class Run:
    """A named run of train.py."""

    def __init__(self, root: Path, name: str, arguments: list[str]) -> None:
        self.root, self.name = root, name
        self.command = [sys.executable, str(REPOSITORY / "train.py"), *arguments, f"run.name={name}", f"run.tag={name}"]
        self.log = root / f"{name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "MINIMIND_ROOT": str(self.root), "PYTHONPATH": PATHS}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.root
            )

    def finish(self) -> "Run":
        assert self.start().wait(120) == 0, self.log.read_text()
        return self

    def kill_after(self, step: int) -> None:
        process = self.start()
        deadline = time.monotonic() + 120
        while process.poll() is None and self.latest_step() < step:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed: " + self.log.read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    @property
    def folder(self) -> RunFolder:
        found = list(self.root.glob(f"runs/{self.name}-????????"))
        return RunFolder(found[0] if found else self.root / "runs" / "none")

    def latest_step(self) -> int:
        return max((int(f.name.removeprefix("step_")) for f in self.folder.complete_checkpoints()), default=0)

    def rows(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(self.folder.metrics)]

    def state(self) -> dict[str, Any]:
        return torch.load(self.folder.checkpoints / f"step_{STEPS:08d}" / "state.pt", weights_only=True)


@pytest.fixture(scope="module")
def objective_arguments(small_run: Path, small_arguments: list[str]) -> dict[str, list[str]]:
    """Command-line arguments of each objective; the frozen model was pre-trained on the same text."""
    common = [*small_arguments, *TRAINER]
    return {
        "pairwise": [*common, *MOE, "objective=pairwise", f"objective.reference={small_run}", "objective.margin=0.5"],
        "writing": [*common, "objective=writing"],
    }


@pytest.mark.parametrize("objective", ["pairwise", "writing"])
def test_killed_run_resumes_bit_for_bit(objective: str, objective_arguments: dict[str, list[str]], root: Path) -> None:
    arguments = [*objective_arguments[objective], *ALONE]
    whole, killed = (Run(root, f"{objective}-{name}", arguments) for name in ("whole", "killed"))
    process = whole.start()
    killed.kill_after(6)
    assert 6 <= killed.latest_step() < STEPS
    killed.finish()
    assert process.wait(120) == 0, whole.log.read_text()
    assert killed.rows() == whole.rows()
    ours, theirs = killed.state(), whole.state()
    for part in ("state_dict", "optimizer_states"):
        assert_same(ours[part], theirs[part], part)
    assert_learned(objective, whole)


def assert_learned(objective: str, run: Run) -> None:
    rows, status, summary = run.rows(), run.folder.status, RunFolder(run.folder.path).summary.read_text()
    last = rows[-1]
    if objective == "pairwise":
        losses = [row["val/loss"] for row in rows if "val/loss" in row]
        assert losses == sorted(losses, reverse=True)
        assert {"train/accuracy", "moe/balance_loss", "moe/max_load"} <= set(last)
        assert "pairs/of_rank_1" not in last  # there is only rank 0
        assert list(status["frozen"]) == ["reference"]
        assert '"best_val_accuracy"' in summary
        state = run.state()["state_dict"]
        assert not [name for name in state if "reference" in name]
        assert sum(t.numel() for t in state.values()) == status["parameters"]
    else:
        assert {"train/reward", "val/reward", "val/loss"} <= set(last)
        assert '"best_val_reward"' in summary
    best = max((row for row in rows if "val/loss" in row), key=lambda row: row[f"val/{BEST[objective]}"])
    assert status["best_checkpoint"] == f"step_{best['step']:08d}"


BEST = {"pairwise": "accuracy", "writing": "reward"}


@pytest.mark.parametrize("objective", ["pairwise", "writing"])
def test_two_ranks_split_a_step(objective: str, objective_arguments: dict[str, list[str]], root: Path) -> None:
    run = Run(root, f"{objective}-ranks", [*objective_arguments[objective], *TWO_RANKS]).finish()
    rows = run.rows()
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    if objective == "pairwise":
        assert {row["pairs/of_rank_1"] for row in rows} == {1.0}  # each of rank 1's batches holds one pair
        assert {"val/accuracy", "moe/balance_loss", "moe/max_load"} <= set(rows[-1])
    else:
        assert all(0 <= row["train/reward"] <= 1 for row in rows)
        assert len({row["train/reward"] for row in rows}) > 1


@pytest.fixture
def known_objectives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the other package importable in this process."""
    monkeypatch.syspath_prepend(HERE / "made")
    _objective_configs.cache_clear()
    yield
    _objective_configs.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["objective=picky"],
            "must have records of pairs or conversations, but data=text has text",
        ),
        (["objective=pairwise"], "`objective.reference` must be set"),
        (["objective=pairwise", "objective.reference=nowhere"], "objective.reference must exist"),
        (["objective.kind=pairwise"], "select it with objective=pairwise"),
        (["objective.kind=pairwize"], "did you mean `pairwise`"),
        (["objective=pairwize"], "Could not find 'objective/pairwize'"),
        (["objective=pairwise", "objective.margn=1"], "margn"),
    ],
)
def test_invalid_settings_are_reported_before_the_run_starts(
    arguments: list[str], words: str, known_objectives: None, run_here: Any, small_arguments: list[str], root: Path
) -> None:
    before = set(root.glob("runs/*"))
    result = run_here(train, *small_arguments, *arguments)
    assert result.code == 2
    assert words in result.err
    assert set(root.glob("runs/*")) == before


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("made_objectives.nowhere:Config", "No module named"),
        ("made_objectives.pairwise:Pairs", "it is not a subclass of ObjectiveConfig"),
        ("made_objectives.config:LossConfig", "its metrics must not have reserved names, but 'weight' is one"),
        ("made_objectives.config:OtherEndConfig", "its primary metric val/loss must be best at"),
    ],
)
def test_unusable_package_is_skipped_with_a_warning(
    entry: str, words: str, known_objectives: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = EntryPoint("broken", entry, "minimind.objectives")
    monkeypatch.setattr("minimind.objectives.config.entry_points", lambda group: [found])
    assert list(objective_configs()) == ["pretrain"]
    assert words in capsys.readouterr().err


def test_frozen_model_may_be_moved(known_objectives: None, tmp_path: Path, small_arguments: list[str]) -> None:
    """Its path is not compared on resuming, unlike other settings; its weights are, with the run's status."""
    from hashes import container_of, hydra

    with hydra():
        old, new, other = (
            container_of((*small_arguments, "objective=pairwise", f"objective.reference={path}", *more))
            for path, more in (("old", ()), ("new", ()), ("new", ("objective.margin=2",)))
        )
    write_config(tmp_path / "config.yaml", old)
    refuse_other_settings(new, tmp_path, step=0)
    with pytest.raises(ConfigError, match=r"`objective\.margin` must be 1\.0"):
        refuse_other_settings(other, tmp_path, step=0)


def assert_same(one: Any, other: Any, path: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}/{number}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, path
