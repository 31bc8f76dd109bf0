"""Failing, damaged and slow runs of train.py, in this process, as a new one would take seconds."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minimind.cli import main, train
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.training import saver
from minimind.training.checkpoint import write_checkpoint
from minimind.utils.files import read_json, write_json

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def run_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: Path, small_arguments: list[str]
) -> Train:
    """Runs `train.py` with the small settings; returns its exit code and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["train.py", *small_arguments, *arguments])
        monkeypatch.setenv("MINIMIND_ROOT", str(root))
        code = train.main()
        output = capsys.readouterr().err
        assert "Traceback" not in output
        return code, output

    return run


def folder_of(root: Path, name: str) -> RunFolder:
    (path,) = root.glob(f"runs/{name}-????????")
    return RunFolder(path)


def test_diverging_run_stops_with_the_reason(run_train: Train, root: Path) -> None:
    """A learning rate near the float32 limit makes the weights infinite; they must not replace good checkpoints."""
    arguments = ["run.name=diverged", "trainer.max_steps=40", "trainer.precision=32-true",
                 "trainer.max_nonfinite_steps=6", "trainer.checkpoint_every_steps=1", "trainer.keep_checkpoints=1",
                 "schedule.warmup_steps=0", "optim.lr=1e38", "trainer.validate_every_steps=40"]  # fmt: skip
    code, output = run_train(*arguments)
    assert code == 1
    run = folder_of(root, "diverged")
    status = run.status
    assert status["state"] == "failed"
    for part in (
        "not finite in",
        "trainer.max_nonfinite_steps is 6",
        "of the data order",
        "The last good checkpoint is",
    ):
        assert part in status["reason"]
        assert part in output
    skipped = [row for row in read_rows(run.metrics) if "train/skipped_steps" in row]
    assert skipped
    assert all("train/loss" not in row for row in skipped if row["train/skipped_steps"] == 2)
    for checkpoint in run.complete_checkpoints():
        weights = torch.load(checkpoint / "state.pt", weights_only=True)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)
    assert not (run.path / "traceback.txt").exists()


def test_only_corrupt_checkpoints_is_an_error_and_deletes_nothing(run_train: Train, root: Path) -> None:
    arguments = [
        "run.name=ruined",
        "run.tag=ruined",
        "trainer.validate_every_steps=7",
        "trainer.checkpoint_every_steps=5",
    ]
    assert run_train(*arguments)[0] == 0
    run = folder_of(root, "ruined")
    assert [row["step"] for row in read_rows(run.metrics) if "val/loss" in row] == [7, 14, 20]
    folders = run.complete_checkpoints()
    assert folders[-1].name == "step_00000020"  # the last step is saved
    for folder in folders:
        (folder / "state.pt").write_bytes(b"x")
    write_json(run.path / "status.json", {**run.status, "state": "running"})
    code, output = run_train(*arguments)
    assert code == 2
    assert "all are corrupt; nothing was changed" in output
    assert all(f"{folder} cannot be used" in output for folder in folders)
    assert run.complete_checkpoints() == folders


def test_run_killed_after_the_last_step_only_finishes(run_train: Train, root: Path, small_run: Path) -> None:
    copy = root / "runs" / small_run.name.replace("shared", "tail")
    shutil.copytree(small_run, copy)
    before = read_json(copy / "summary.json")
    (copy / "summary.json").unlink()
    write_json(copy / "status.json", {**read_json(copy / "status.json"), "state": "running"})
    code, output = run_train("run.name=tail")
    assert code == 0, output
    assert read_rows(copy / "metrics.jsonl") == read_rows(small_run / "metrics.jsonl")
    after = read_json(copy / "summary.json")
    varying = {"command_s": 0, "memory/host_peak_mib": 0}
    assert {**after, **varying} == {**before, **varying}


def test_init_from_takes_weights_only(
    run_train: Train, root: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a run and from an imported model: step 0, no moments, the schedule from its start."""
    arguments = ["trainer.max_steps=2", "trainer.log_every_steps=1", "model.dropout=0", "optim.lr=1e-8",
                 "trainer.validate_every_steps=2", "trainer.precision=32-true"]  # fmt: skip
    code, output = run_train(*arguments, "run.name=child", f"init_from={small_run}")
    assert code == 0, output
    assert "Resuming" not in output
    rows = read_rows(folder_of(root, "child").metrics)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["train/lr"] == pytest.approx(0.5e-8)  # the first of two steps of warm-up
    assert rows[-1]["val/loss"] == pytest.approx(read_json(small_run / "summary.json")["val/loss"], abs=2e-2)
    imported = root / "runs" / "imported_weights"
    hf = root / "hf"
    for verb in (["export", str(small_run), "--to", str(hf)], ["import", str(hf), "--to", str(imported)]):
        monkeypatch.setattr("sys.argv", ["minimind", *verb])
        assert main.main() == 0
    code, output = run_train(*arguments, "run.name=grandchild", f"init_from={imported}")
    assert code == 0, output
    again = read_rows(folder_of(root, "grandchild").metrics)
    assert [row["train/loss"] for row in again] == pytest.approx([row["train/loss"] for row in rows], abs=1e-4)


def test_init_from_refuses_a_model_of_another_shape(run_train: Train, root: Path, small_run: Path) -> None:
    code, output = run_train("run.name=misfit", "model.hidden_size=64", f"init_from={small_run}")
    assert code == 2
    assert "must fit the model" in output
    assert not list(root.glob("runs/misfit-*"))


def test_slow_disk_skips_checkpoints_but_not_those_kept_permanently(
    run_train: Train, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Path:
        time.sleep(0.2)
        return write_checkpoint(*arguments)

    monkeypatch.setattr(saver, "write_checkpoint", slow)
    code, output = run_train(
        "run.name=slow", "run.tag=slow", "trainer.checkpoint_every_steps=1", "trainer.keep_every_steps=5",
        "trainer.keep_checkpoints=1", "trainer.validate_every_steps=20",
    )  # fmt: skip
    assert code == 0, output
    assert output.count("is not saved: the disk is still busy with step_") == 1
    steps = [int(folder.name.removeprefix("step_")) for folder in folder_of(root, "slow").complete_checkpoints()]
    assert steps == [5, 10, 15, 20]


def test_checkpoint_every_minutes(run_train: Train, root: Path) -> None:
    """With an interval shorter than a step, every step is due."""
    arguments = ["trainer.checkpoint_every_steps=20", "trainer.validate_every_steps=20", "trainer.keep_checkpoints=50"]
    for name, minutes in (("hours", 60), ("clock", 1e-9)):
        more = [f"run.name={name}", f"run.tag={name}", f"trainer.checkpoint_every_minutes={minutes}"]
        assert run_train(*arguments, *more)[0] == 0
    assert len(folder_of(root, "hours").complete_checkpoints()) == 1
    assert len(folder_of(root, "clock").complete_checkpoints()) > 2
