"""`minimind runs` tells a run that somebody works on from one that only says so."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimind.cli import main
from minimind.runs.folder import RunFolder
from minimind.runs.lock import run_lock
from minimind.utils.files import write_json


def lock_of_a_dead_process() -> dict[str, object]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"host": socket.gethostname(), "pid": process.pid, "since": time.time()}


def test_states_figures_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
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
