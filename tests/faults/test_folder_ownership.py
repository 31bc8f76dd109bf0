"""One process owns a run folder at a time, and stops if the folder is moved."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minimind.cli import train
from minimind.runs import lock
from minimind.runs.folder import FolderGone, RunFolder
from minimind.runs.lock import is_held, run_lock
from minimind.runs.metrics_file import read_rows
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

from .conftest import folder_of


def only(root: Path, pattern: str) -> Path:
    (found,) = root.glob(f"runs/{pattern}")
    return found


def test_fresh_is_refused_during_a_live_run(run_here, small_arguments: list[str], small_run: Path, root: Path) -> None:
    run = Path(shutil.copytree(small_run, small_run.with_name(small_run.name.replace("shared", "live"))))
    rows = read_rows(run / "metrics.jsonl")
    with run_lock(run / "lock.json"):
        for more in (["run.fresh=true"], ["run.fresh=true", "parallel=ddp", "trainer.devices=2"]):
            result = run_here(train, *small_arguments, "run.name=live", *more)
            assert result.code == 2
            assert "Only one process may use" in result.err
            assert read_rows(run / "metrics.jsonl") == rows
            assert not list(root.glob("runs/live-*.old-*"))
    unfinished = {"state": "preempted", "data_fingerprint": "of another text"}  # neither resumed nor compared
    write_json(run / "status.json", {**read_json(run / "status.json"), **unfinished})
    result = run_here(train, *small_arguments, "run.name=live", "run.fresh=true", "trainer.validate_every_steps=20")
    assert result.code == 0, result.err
    assert f"run.fresh: the old run folder is now {run.name}.old-1." in result.err
    assert [row["step"] for row in read_rows(run / "metrics.jsonl") if "val/loss" in row] == [20]
    assert read_json(Path(f"{run}.old-1") / "status.json")["state"] == "preempted"
    assert read_rows(Path(f"{run}.old-1") / "metrics.jsonl") == rows
    assert not is_held(Path(f"{run}.old-1") / "lock.json")
    assert not Path(f"{run}.old-1", "lock.json").exists()


def test_run_finished_before_the_lock_was_taken_is_not_repeated(run_here, small_arguments: list[str]) -> None:
    """Another process may finish the run between the first check and the lock."""
    from minimind.cli import admission

    calls = []

    def unfinished_at_first(planned: object) -> bool:
        calls.append(planned)
        return len(calls) > 1 and original(planned)

    original = admission.is_finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "is_finished", unfinished_at_first)
        result = run_here(train, *small_arguments, "run.name=shared")
    assert (result.code, "This run is finished" in result.out) == (0, True)


def call_when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not condition():
            time.sleep(0.002)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("what", ["renamed", "deleted", "replaced"])
def test_run_stops_if_its_folder_is_moved_during_training(
    run_here, small_arguments: list[str], root: Path, what: str
) -> None:
    def saved() -> list[Path]:
        return list(root.glob(f"runs/gone_{what}-????????/checkpoints/*/COMPLETE"))

    def go() -> None:
        folder = saved()[0].parent.parent.parent
        folder.rename(root / "elsewhere" / what)
        if what == "deleted":
            shutil.rmtree(root / "elsewhere" / what)
        if what == "replaced":
            folder.mkdir()
            (folder / "status.json").write_text('{"state": "running", "step": 7}')

    (root / "elsewhere").mkdir(exist_ok=True)
    watcher = call_when(lambda: bool(saved()), go)
    result = run_here(
        train, *small_arguments, f"run.name=gone_{what}", f"run.tag={what}", "trainer.max_steps=400",
        "trainer.validate_every_steps=400", "trainer.checkpoint_every_steps=3", "trainer.log_every_steps=2",
    )  # fmt: skip
    watcher.join()
    assert result.code == 1
    assert "was renamed, deleted or replaced" in result.err
    found = list(root.glob(f"runs/gone_{what}-*"))
    if what == "replaced":
        assert [path.name for path in found[0].iterdir()] == ["status.json"]
        assert read_json(found[0] / "status.json") == {"state": "running", "step": 7}
        shutil.rmtree(found[0])
    else:
        assert found == []
    if what == "renamed":  # complete, and can be resumed
        moved = RunFolder(root / "elsewhere" / what)
        steps = [row["step"] for row in read_rows(moved.metrics)]
        assert steps == list(range(2, 2 * len(steps) + 1, 2))
        assert not moved.lock.exists()
        last = moved.complete_checkpoints()[-1].name
        resumed = run_here(train, f"run.resume={moved.path}", f"trainer.max_steps={int(last[5:]) + 2}")
        assert resumed.code == 0, resumed.err
        shutil.rmtree(moved.path)


def test_nothing_is_written_to_a_replaced_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        run.update_status(state="running")  # writers do not create the folder
    run.path.mkdir()
    run.claim()
    run.update_status(state="running")
    run.path.rename(tmp_path / "moved")
    with pytest.raises(FolderGone, match="was renamed, deleted or replaced"):
        run.update_status(state="failed")
    run.path.mkdir()
    with pytest.raises(FolderGone):
        run.update_status(state="failed")
    assert list(run.path.iterdir()) == []
    assert read_json(tmp_path / "moved" / "status.json")["state"] == "running"


def test_lock_belongs_to_the_folder_not_to_its_path(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock.json"
    with run_lock(path):
        (tmp_path / "run" / "status.json").touch()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="Only one process"), run_lock(tmp_path / "moved" / "lock.json"):
            pass
        with run_lock(path):  # a new folder of the old name is another run
            assert path.is_file()
            (tmp_path / "run" / "status.json").touch()
    assert not (tmp_path / "moved" / "lock.json").exists()
    assert (tmp_path / "run").is_dir()


def test_damaged_lock_file_does_not_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock.json"
    for content in ("{torn", "[]", "\xff"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="latin-1")
        assert not is_held(path)
        with run_lock(path):
            assert is_held(path)


REFUSED = {  # argument → error message
    "run.resume=must": "must be auto or never with run.fresh=true",
    "trainer.accelerator=mps": "must be available on this machine, but mps is not",
    "+callbacks.mine._target_=no.such.Class": "callbacks.mine",
    "init_from=nowhere": "init_from must exist",
    "tokenizer.path=nowhere": "tokenizer.path",
    "schedule.warmup_steps=500": "warmup_steps",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_refused_fresh_run_leaves_the_old_run_in_place(
    run_here, small_arguments: list[str], small_run: Path, root: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder is renamed only after everything has been checked."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    arguments = [*small_arguments, "run.name=kept", typed]
    planned = folder_of([argument for argument in arguments if not argument.startswith("schedule")], root)
    shutil.copytree(small_run, planned, dirs_exist_ok=True)
    result = run_here(train, *arguments, "run.fresh=true")
    assert (result.code, REFUSED[typed] in result.err) == (2, True), result.err
    assert [path.name for path in (root / "runs").glob("*kept*")] == [planned.name]
    assert read_rows(planned / "metrics.jsonl") == read_rows(small_run / "metrics.jsonl")
    shutil.rmtree(planned)


def test_fresh_and_resume_exclude_each_other(run_here, small_run: Path) -> None:
    result = run_here(train, f"run.resume={small_run}", "run.fresh=true")
    assert (result.code, "must be auto or never with run.fresh=true" in result.err) == (2, True)
    assert list(small_run.parent.glob(f"*{small_run.name}*")) == [small_run]


def test_new_run_replaces_only_the_old_run(tmp_path: Path) -> None:
    def prepared(name: str, released: list[str]) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        run.update_status(state="running", step=7)
        (tmp_path / f"{name}.old-1").symlink_to("nowhere")  # the name is taken
        run.stage_replacement(lambda: released.append(name))
        run.path.mkdir()
        run.claim()
        assert (run.status, run.path.name) == ({}, f".{name}.new")
        return run

    released: list[str] = []
    run = prepared("run", released)
    rank = RunFolder(tmp_path / "run")
    rank.take_over(json.loads(json.dumps(run.hand_over())))
    assert (rank.path, rank.in_place, rank.replaces) == (run.path, True, run.replaces)
    assert run.replace_old() == tmp_path / "run.old-2"
    assert (run.path, run.status, run.in_place, released) == (tmp_path / "run", {}, True, ["run"])
    assert RunFolder(tmp_path / "run.old-2").status["step"] == 7
    rank.update_path()
    assert (rank.path, rank.in_place, rank.replaces) == (run.path, True, None)

    lost = prepared("lost", released)
    (tmp_path / "lost").rename(tmp_path / "moved")
    (tmp_path / "lost").mkdir()  # another process's folder
    with pytest.raises(FolderGone):
        lost.replace_old()
    assert sorted(path.name for path in tmp_path.glob("*lost*")) == [".lost.new", "lost", "lost.old-1"]


def test_heartbeat_continues_after_the_planned_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    staging, final = tmp_path / ".run.new" / "lock.json", tmp_path / "run" / "lock.json"
    with run_lock(staging, final):
        staging.parent.rename(final.parent)
        first = read_json(final)
        deadline = time.monotonic() + 30
        while read_json(final) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_held(final)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not final.exists()


@pytest.mark.parametrize("what", ["renamed", "deleted", "replaced"])
@pytest.mark.parametrize("fresh", [False, True])
def test_folder_moved_during_preparation_is_not_recreated(
    run_here, small_arguments: list[str], root: Path, tmp_path: Path, what: str, fresh: bool
) -> None:
    from minimind.cli import session

    name = f"early_{what}_{fresh}"
    folder = folder_of([*small_arguments, f"run.name={name}"], root)
    if fresh:
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"state": "running", "step": 0}')

    def move_folder_and_prepare(*arguments: object) -> object:
        folder.rename(tmp_path / "moved")
        if what == "deleted":
            shutil.rmtree(tmp_path / "moved")
        if what == "replaced":
            folder.mkdir()
        return prepare(*arguments)

    prepare = session.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "prepare", move_folder_and_prepare)
        result = run_here(train, *small_arguments, f"run.name={name}", *(["run.fresh=true"] if fresh else []))
    assert (result.code, "was renamed, deleted or replaced" in result.err) == (1, True), result.err
    found = list((root / "runs").glob(f"*{name}*"))
    assert found == ([folder] if what == "replaced" else [])
    if what == "replaced":
        assert list(folder.iterdir()) == []
        folder.rmdir()
