"""A run folder has one owner at a time, and an owner that has lost it stops."""

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


def test_fresh_beside_a_live_run_is_refused(run_here, small_arguments: list[str], small_run: Path, root: Path) -> None:
    run = Path(shutil.copytree(small_run, small_run.with_name(small_run.name.replace("shared", "live"))))
    rows = read_rows(run / "metrics.jsonl")
    with run_lock(run / "lock.json"):
        for more in (["run.fresh=true"], ["run.fresh=true", "parallel=ddp", "trainer.devices=2"]):
            said = run_here(train, *small_arguments, "run.name=live", *more)
            assert said.code == 2
            assert "Only one process may work in" in said.err
            assert read_rows(run / "metrics.jsonl") == rows
            assert not list(root.glob("runs/live-*.old-*"))
    unfinished = {"state": "preempted", "data_fingerprint": "of another text"}  # neither gone on with nor compared
    write_json(run / "status.json", {**read_json(run / "status.json"), **unfinished})
    said = run_here(train, *small_arguments, "run.name=live", "run.fresh=true", "trainer.validate_every_steps=20")
    assert said.code == 0, said.err
    assert f"run.fresh: the old folder is now {run.name}.old-1." in said.err
    assert [row["step"] for row in read_rows(run / "metrics.jsonl") if "val/loss" in row] == [20]
    assert read_json(Path(f"{run}.old-1") / "status.json")["state"] == "preempted"
    assert read_rows(Path(f"{run}.old-1") / "metrics.jsonl") == rows
    assert not is_held(Path(f"{run}.old-1") / "lock.json")
    assert not Path(f"{run}.old-1", "lock.json").exists()


def test_a_finished_run_is_found_finished_by_who_waited_for_its_lock(run_here, small_arguments: list[str]) -> None:
    """Between the first look and the lock another process may have done it all."""
    from minimind.cli import admission

    looks = []

    def unfinished_at_first(planned: object) -> bool:
        looks.append(planned)
        return len(looks) > 1 and original(planned)

    original = admission.is_finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "is_finished", unfinished_at_first)
        said = run_here(train, *small_arguments, "run.name=shared")
    assert (said.code, "This run is finished" in said.out) == (0, True)


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not condition():
            time.sleep(0.002)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("what", ["renamed", "deleted", "replaced"])
def test_a_folder_that_goes_while_it_trains_stops_the_run(
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
    watcher = when(lambda: bool(saved()), go)
    said = run_here(
        train, *small_arguments, f"run.name=gone_{what}", f"run.tag={what}", "trainer.max_steps=400",
        "trainer.validate_every_steps=400", "trainer.checkpoint_every_steps=3", "trainer.log_every_steps=2",
    )  # fmt: skip
    watcher.join()
    assert said.code == 1
    assert "was renamed, deleted or replaced" in said.err
    found = list(root.glob(f"runs/gone_{what}-*"))
    if what == "replaced":
        assert [path.name for path in found[0].iterdir()] == ["status.json"]
        assert read_json(found[0] / "status.json") == {"state": "running", "step": 7}
        shutil.rmtree(found[0])
    else:
        assert found == []
    if what == "renamed":  # whole, and can be gone on with
        moved = RunFolder(root / "elsewhere" / what)
        steps = [row["step"] for row in read_rows(moved.metrics)]
        assert steps == list(range(2, 2 * len(steps) + 1, 2))
        assert not moved.lock.exists()
        last = moved.complete_checkpoints()[-1].name
        goes_on = run_here(train, f"run.resume={moved.path}", f"trainer.max_steps={int(last[5:]) + 2}")
        assert goes_on.code == 0, goes_on.err
        shutil.rmtree(moved.path)


def test_nothing_is_written_into_a_folder_that_is_another(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        run.update_status(state="running")  # a writer makes no folder
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


def test_the_lock_is_the_folders_not_its_names(tmp_path: Path) -> None:
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


def test_a_damaged_lock_file_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock.json"
    for content in ("{torn", "[]", "\xff"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="latin-1")
        assert not is_held(path)
        with run_lock(path):
            assert is_held(path)


REFUSED = {  # what is typed, and what is said of it
    "run.resume=must": "must be auto or never with run.fresh=true",
    "trainer.accelerator=mps": "must name a device that is here, but mps is not",
    "+callbacks.mine._target_=no.such.Class": "callbacks.mine",
    "init_from=nowhere": "init_from must exist",
    "tokenizer.path=nowhere": "tokenizer.path",
    "schedule.warmup_steps=500": "warmup_steps",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_refused_on_the_way_leaves_the_old_run_in_its_place(
    run_here, small_arguments: list[str], small_run: Path, root: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder goes only when everything that could be refused has been looked at."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    arguments = [*small_arguments, "run.name=kept", typed]
    planned = folder_of([argument for argument in arguments if not argument.startswith("schedule")], root)
    shutil.copytree(small_run, planned, dirs_exist_ok=True)
    said = run_here(train, *arguments, "run.fresh=true")
    assert (said.code, REFUSED[typed] in said.err) == (2, True), said.err
    assert [path.name for path in (root / "runs").glob("*kept*")] == [planned.name]
    assert read_rows(planned / "metrics.jsonl") == read_rows(small_run / "metrics.jsonl")
    shutil.rmtree(planned)


def test_a_run_is_not_begun_again_and_gone_on_with(run_here, small_run: Path) -> None:
    said = run_here(train, f"run.resume={small_run}", "run.fresh=true")
    assert (said.code, "must be auto or never with run.fresh=true" in said.err) == (2, True)
    assert list(small_run.parent.glob(f"*{small_run.name}*")) == [small_run]


def test_a_new_run_takes_the_place_of_an_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    def prepared(name: str, released: list[str]) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        run.update_status(state="running", step=7)
        (tmp_path / f"{name}.old-1").symlink_to("nowhere")  # a name that is taken
        run.begin_beside(lambda: released.append(name))
        run.path.mkdir()
        run.claim()
        assert (run.status, run.path.name) == ({}, f".{name}.new")
        return run

    released: list[str] = []
    run = prepared("run", released)
    rank = RunFolder(tmp_path / "run")
    rank.take_over(json.loads(json.dumps(run.hand_over())))
    assert (rank.path, rank.in_place, rank.replaces) == (run.path, True, run.replaces)
    assert run.take_place() == tmp_path / "run.old-2"
    assert (run.path, run.status, run.in_place, released) == (tmp_path / "run", {}, True, ["run"])
    assert RunFolder(tmp_path / "run.old-2").status["step"] == 7
    rank.follow()
    assert (rank.path, rank.in_place, rank.replaces) == (run.path, True, None)

    lost = prepared("lost", released)
    (tmp_path / "lost").rename(tmp_path / "moved")
    (tmp_path / "lost").mkdir()  # another's
    with pytest.raises(FolderGone):
        lost.take_place()
    assert sorted(path.name for path in tmp_path.glob("*lost*")) == [".lost.new", "lost", "lost.old-1"]


def test_the_heart_beats_where_the_folder_is_renamed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    place, later = tmp_path / ".run.new" / "lock.json", tmp_path / "run" / "lock.json"
    with run_lock(place, later):
        place.parent.rename(later.parent)
        first = read_json(later)
        deadline = time.monotonic() + 30
        while read_json(later) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_held(later)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not later.exists()


@pytest.mark.parametrize("what", ["renamed", "deleted", "replaced"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_goes_while_the_run_is_prepared_does_not_come_back(
    run_here, small_arguments: list[str], root: Path, tmp_path: Path, what: str, fresh: bool
) -> None:
    from minimind.cli import session

    name = f"early_{what}_{fresh}"
    folder = folder_of([*small_arguments, f"run.name={name}"], root)
    if fresh:
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"state": "running", "step": 0}')

    def lose_it_and_prepare(*arguments: object) -> object:
        folder.rename(tmp_path / "moved")
        if what == "deleted":
            shutil.rmtree(tmp_path / "moved")
        if what == "replaced":
            folder.mkdir()
        return prepare(*arguments)

    prepare = session.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "prepare", lose_it_and_prepare)
        said = run_here(train, *small_arguments, f"run.name={name}", *(["run.fresh=true"] if fresh else []))
    assert (said.code, "was renamed, deleted or replaced" in said.err) == (1, True), said.err
    found = list((root / "runs").glob(f"*{name}*"))
    assert found == ([folder] if what == "replaced" else [])
    if what == "replaced":
        assert list(folder.iterdir()) == []
        folder.rmdir()
