"""`minimind runs` tells a live run from one whose process is gone, and shows its primary metric."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimind.cli import main
from minimind.objectives.config import ObjectiveConfig, objective_configs
from minimind.report.summary import print_summary
from minimind.runs.folder import RunFolder
from minimind.runs.lock import run_lock
from minimind.training.callbacks.progress import Progress
from minimind.utils.files import write_json


def lock_of_a_dead_process() -> dict[str, object]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"host": socket.gethostname(), "pid": process.pid, "since": time.time()}


def test_states_metrics_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    elsewhere = {"host": "another", "pid": 1, "since": 0.0}
    runs = {
        "alive": ("running", None, "running"),
        "killed": ("running", lock_of_a_dead_process(), "interrupted"),
        "unlocked": ("running", None, "interrupted"),
        "far": ("running", {**elsewhere, "heartbeat": time.time() - 30}, "running"),
        "farkilled": ("running", {**elsewhere, "heartbeat": time.time() - 3600}, "interrupted"),
        "done": ("finished", None, "finished"),
        "stopped": ("preempted", None, "preempted"),
        "broken": ("failed", lock_of_a_dead_process(), "failed"),
    }
    for name, (state, lock, _) in runs.items():
        folder = RunFolder(tmp_path / "runs" / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.update_status(state=state, step=1500, tokens=3_000_000)
        if lock is not None:
            write_json(folder.lock, lock)
    (tmp_path / "runs" / "done" / "metrics.jsonl").write_text('{"step": 9, "val/loss": 2.5}\n{"step": 10}\n')
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["minimind", "runs"])
    with run_lock(tmp_path / "runs" / "alive" / "lock.json"):
        assert main.main() == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    cells = {line[0]: line[1:] for line in lines if len(line) == 6}
    assert {name: cells[name][0] for name in runs} == {name: shown for name, (_, _, shown) in runs.items()}
    assert cells["done"][1:] == ["1,500", "3,000,000", "2.5000", "0 s"]


@pytest.fixture
def preference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed objective with its own primary metric, and without bits per byte."""

    class Preference(ObjectiveConfig):
        primary = ("val/chosen", "max")

    monkeypatch.setitem(objective_configs(), "preference", Preference)


def test_runs_show_the_primary_metric_of_their_objective(
    preference: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for kind in ("preference", "pretrain", "gone"):
        folder = RunFolder(tmp_path / "runs" / kind)
        folder.path.mkdir(parents=True)
        folder.update_status(state="finished", step=1, tokens=1)
        folder.config.write_text(f"objective:\n  kind: {kind}\n")
        folder.metrics.write_text('{"step": 9, "val/loss": 2.5, "val/chosen": 0.75}\n{"step": 10}\n')
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["minimind", "runs"])
    assert main.main() == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    shown = {line[0]: line[4] for line in lines if len(line) == 6}
    assert shown == {"preference": "val/chosen 0.75", "pretrain": "2.5000", "gone": "2.5000"}


def test_progress_and_summary_work_without_bits_per_byte(
    preference: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    progress = Progress()
    progress.max_steps, progress.first_step, progress.start = 10, 0, 0.0
    row = {"step": 5, "tokens": 500, "val/loss": 2.5, "val/chosen": 0.75}
    assert "val loss 2.500 · val/chosen 0.75 · " in progress.line(row, 1.0)
    print_summary({"step": 10, "tokens": 1000, "val/chosen": 0.75}, [], tmp_path)
    summary = capsys.readouterr().out
    assert "val/chosen" in summary
    assert "bits per byte" not in summary
