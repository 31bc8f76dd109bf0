"""Writing, retention and background saving of checkpoints, with slow and full disks and non-finite weights."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimind.runs.checkpoints import checkpoint_problem, resume_point
from minimind.runs.folder import COMPLETE, RunFolder
from minimind.training import saver as saver_module
from minimind.training.checkpoint import NonFiniteWeights, write_checkpoint
from minimind.training.config import TrainerConfig
from minimind.training.host_copy import HostCopy
from minimind.training.saver import Saver, superseded
from minimind.utils.errors import RunFailed, UserError
from minimind.utils.files import read_json


def state(value: float = 1.0) -> dict[str, Any]:
    weight = torch.full((7, 3), value)
    return {
        "state_dict": {"model.a": weight, "model.tied": weight, "model.b": torch.arange(4)},
        "list": [1, (2, weight)],
    }


RECORD = {"config.yaml": b"model: {}", "tokenizer.json": b"[]"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    for name, content in RECORD.items():
        (tmp_path / name).write_bytes(content)
    folder = RunFolder(tmp_path)
    folder.update_status(state="running")
    return folder


def test_the_marker_lists_the_hash_of_each_file(run: RunFolder) -> None:
    folder = write_checkpoint(run, 3, state(), RECORD)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != COMPLETE}
    hashes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    assert read_json(folder / COMPLETE) == {"step": 3, "files": hashes}
    assert files.items() >= RECORD.items()
    loaded = torch.load(folder / "state.pt", weights_only=True)
    assert torch.equal(loaded["state_dict"]["model.a"], state()["state_dict"]["model.a"])
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000003"]


def test_a_damaged_folder_of_the_same_step_is_replaced(run: RunFolder) -> None:
    folder = write_checkpoint(run, 3, state(1.0), RECORD)
    (folder / "state.pt").write_bytes(b"torn")
    assert "corrupt" in str(checkpoint_problem(folder))
    assert checkpoint_problem(write_checkpoint(run, 3, state(2.0), RECORD)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_weights_are_not_written(run: RunFolder, value: float) -> None:
    with pytest.raises(NonFiniteWeights, match=r"^a is not finite"):
        write_checkpoint(run, 1, state(value), RECORD)
    assert not run.checkpoints.exists()


def test_the_newest_usable_checkpoint_is_chosen_and_unusable_ones_are_named(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_checkpoint(run, step, state(), RECORD) for step in (1, 2, 3, 4)]
    (folders[3] / COMPLETE).unlink()
    (folders[2] / COMPLETE).write_text("{torn")
    (folders[1] / "state.pt").unlink()
    assert resume_point(run, warn=True) == folders[0]
    err = capsys.readouterr().err
    assert [f"{folder} cannot be used" in err for folder in folders] == [False, True, True, True]
    (folders[0] / "state.pt").write_bytes(b"")
    with pytest.raises(UserError, match="all are corrupt; nothing was changed"):
        resume_point(run, warn=True)
    assert all(folder.is_dir() for folder in folders)


@given(
    steps=st.sets(st.integers(1, 40), min_size=1), data=st.data(), keep=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 10),
)  # fmt: skip
def test_retention_keeps_the_newest_the_best_and_the_permanent(
    steps: set[int], data: st.DataObject, keep: int, keep_every: int | None
) -> None:
    newest, best = data.draw(st.sampled_from(sorted(steps))), data.draw(st.sampled_from(sorted(steps)))
    gone = set(superseded(steps, newest=newest, keep=keep, keep_every=keep_every, best=best))
    usable = sorted(step for step in steps if step <= newest)
    assert not gone & ({best, newest} | set(usable[-keep:]) | {step for step in steps if step > newest})
    assert not any(keep_every and step % keep_every == 0 for step in gone)
    assert len(set(usable) - gone - {best}) <= keep + sum(
        bool(keep_every) and step % keep_every == 0 for step in usable
    )


def test_a_copy_does_not_change_with_its_original() -> None:
    original = state()
    memory = HostCopy()
    first = memory.take(original)
    original["state_dict"]["model.a"].zero_()
    assert first["state_dict"]["model.a"].eq(1).all()
    assert first["state_dict"]["model.a"] is first["state_dict"]["model.tied"]  # so still written once
    assert first["list"][1][0] == 2
    again = memory.take(original)
    assert again["state_dict"]["model.a"].data_ptr() == first["state_dict"]["model.a"].data_ptr()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that writes nothing until this event is set."""
    event = threading.Event()

    def slow(*arguments: Any) -> Path:
        assert event.wait(30)
        return write_checkpoint(*arguments)

    monkeypatch.setattr(saver_module, "write_checkpoint", slow)
    return event


def test_training_does_not_wait_for_the_disk(run: RunFolder, gate: threading.Event) -> None:
    saver = Saver(run, TrainerConfig())
    original = state()
    saver.start(1, original, is_best=True, tokens=9)
    original["state_dict"]["model.a"].zero_()  # training continues
    assert saver.busy
    gate.set()
    saver.finish("x")
    written = torch.load(run.checkpoints / "step_00000001" / "state.pt", weights_only=True)
    assert written["state_dict"]["model.a"].eq(1).all()
    assert (run.status["step"], run.status["tokens"], run.status["best_checkpoint"]) == (1, 9, "step_00000001")


def test_saves_run_one_at_a_time(run: RunFolder, gate: threading.Event) -> None:
    saver = Saver(run, TrainerConfig())
    saver.start(1, state(), is_best=False, tokens=0)
    started = threading.Event()

    def second() -> None:
        saver.start(2, state(), is_best=False, tokens=0)
        started.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not started.wait(0.2)  # the only host copy is still being written
    gate.set()
    assert started.wait(30)
    thread.join()
    saver.finish("x")
    assert len(run.complete_checkpoints()) == 2


def test_a_failed_last_save_fails_the_run(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    saver = Saver(run, TrainerConfig(keep_checkpoints=1))
    saver.start(1, state(), is_best=False, tokens=0)
    saver.start(2, state(float("nan")), is_best=False, tokens=0)
    with pytest.raises(
        RunFailed, match=r"At the end: step_00000002 could not be saved .a is not finite.*step_00000001"
    ):
        saver.finish("At the end")
    assert "Training continues" in capsys.readouterr().err
    assert [folder.name for folder in run.complete_checkpoints()] == ["step_00000001"]
    saver.start(2, state(), is_best=False, tokens=0)
    saver.finish("At the end")
    assert [folder.name for folder in run.complete_checkpoints()] == ["step_00000002"]
