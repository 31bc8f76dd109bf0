"""Small real sweeps from the command line: a failing arm, a kill partway, and a restart."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from minimind.report.sweep_file import Sweep, load_sweep
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TINY = ["model.num_hidden_layers=1", "callbacks=none", "evaluation.max_new_tokens=2", "trainer.accelerator=cpu",
        "trainer.num_threads=1"]  # fmt: skip


class TrainProcess:
    """`train.py -m …` in the background."""

    def __init__(self, root: Path, arguments: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "train.py"), "-m", *arguments], cwd=root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "MINIMIND_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        )  # fmt: skip

    def wait(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=240)
        return self.process.returncode, out + err


def sweep_in(root: Path) -> tuple[Path, Sweep]:
    (file,) = root.glob("sweeps/*/sweep.json")
    return file.parent, load_sweep(file.parent)


def states(root: Path, sweep: Sweep) -> dict[tuple[str, int], str]:
    return {(job.arm, job.replicate): RunFolder(root / job.run).status.get("state", "none") for job in sweep.jobs}


def wait_for_a_checkpoint(root: Path, timeout: float = 120) -> Path:
    """Waits until the second run is training and has a checkpoint; returns its folder."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        folders = [RunFolder(path.parent) for path in root.glob("runs/*/status.json")]
        for folder in folders:
            if len(folders) == 2 and folder.status["state"] == "running" and folder.complete_checkpoints():
                return folder.path
        time.sleep(0.02)
    raise AssertionError("the second run has no checkpoint")


def test_a_killed_sweep_resumes_and_a_failing_arm_stops_no_other(small_arguments: list[str], tmp_path: Path) -> None:
    longer = ["trainer.max_steps=600", "trainer.validate_every_steps=300", "trainer.checkpoint_every_steps=2"]
    arguments = ["ablation=norm", "ablation.seeds=[1,2]", *small_arguments, *TINY, *longer,
                 '+ablation.arms.broken=["init_from=/nowhere"]']  # fmt: skip
    first = TrainProcess(tmp_path, arguments)
    interrupted = wait_for_a_checkpoint(tmp_path)
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    folder, sweep = sweep_in(tmp_path)
    assert list(sweep.arms) == ["rmsnorm", "layernorm", "broken"]
    orphan = RunFolder(interrupted)
    for _ in range(300):  # the job notices that its parent is gone
        if orphan.status["state"] == "preempted":
            break
        time.sleep(0.1)
    assert orphan.status["state"] == "preempted"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/summary.json")}
    assert len(before) == 1

    code, output = TrainProcess(tmp_path, [*arguments, "hydra.launcher.num_parallel=2"]).wait()
    assert code == 1, output
    assert "6 runs, 1 of them already finished" in output
    assert "init_from must exist, but /nowhere" in output
    assert "logs/broken-1.log" in output
    for arm in ("rmsnorm", "layernorm"):
        assert {states(tmp_path, sweep)[arm, seed] for seed in (1, 2)} == {"finished"}
    assert states(tmp_path, sweep)["broken", 1] == "none"
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    rows = read_rows(orphan.metrics)
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] == 600
    assert "Resuming" in "".join(path.read_text() for path in (folder / "logs").glob("*.log"))

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert report["arms"]
    assert "broken" in text
    assert "no verdict" in text  # with two seeds
    failed = next(arm for arm in report["arms"] if arm["name"] == "broken")
    assert {run["state"] for run in failed["runs"]} == {"failed"}
    assert all("init_from must exist" in run["reason"] for run in failed["runs"])
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_ctrl_c_stops_a_grid_and_its_jobs(small_arguments: list[str], tmp_path: Path) -> None:
    longer = ["trainer.max_steps=2000", "trainer.validate_every_steps=2000", "trainer.checkpoint_every_steps=2"]
    arguments = ["optim.lr=1e-3,3e-3", *small_arguments, *TINY, "hydra.launcher.num_parallel=2"]
    started = TrainProcess(tmp_path, [*arguments, *longer])
    wait_for_a_checkpoint(tmp_path)
    started.process.send_signal(signal.SIGINT)
    code, output = started.wait()
    assert code == 75, output
    _, sweep = sweep_in(tmp_path)
    assert list(sweep.arms) == ["optim.lr=0.001", "optim.lr=0.003"]
    found = set(states(tmp_path, sweep).values())
    assert "preempted" in found
    assert found <= {"preempted", "running", "none"}  # the other may not have reached its first step
    stopped = {job.run: RunFolder(tmp_path / job.run).status.get("step") for job in sweep.jobs}
    assert any(stopped.values())


def test_mistakes_are_reported_before_anything_is_written(small_arguments: list[str], tmp_path: Path) -> None:
    code, output = TrainProcess(tmp_path, ["ablation=norm", "model.norm=rmsnorm", *small_arguments]).wait()
    assert code == 2
    assert "`model.norm` must not be set with this ablation" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_other_launchers_work_as_well(launcher: str, small_arguments: list[str], tmp_path: Path) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    arguments = [f"hydra/launcher={launcher}", "trainer.max_steps=2", *small_arguments, *TINY]
    code, output = TrainProcess(tmp_path, [*arguments, "init_from=null,/nowhere"]).wait()
    assert code == 1, output  # one failed
    _, sweep = sweep_in(tmp_path)
    assert sorted(states(tmp_path, sweep).values()) == ["finished", "none"]
