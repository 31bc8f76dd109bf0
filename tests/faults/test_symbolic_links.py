"""What somebody's folder leads to elsewhere is neither written nor deleted: links below a run folder are refused."""

import os
import shutil
from pathlib import Path

import pytest

from minimind.cli import evaluate, main, processes, train
from minimind.runs.folder import RunFolder
from minimind.runs.links import refuse_links
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

PLACES = ["status.json", "traceback.txt", "samples.jsonl", "metrics.superseded.jsonl", "checkpoints", "loss.png",
          "checkpoints/step_00000010", "checkpoints/step_00000010/state.pt", "lock.json", "lock.json.held",
          "evaluations", "csv", "wandb", "wandb/wandb", "wandb/settings", "new"]  # fmt: skip


def moved_behind_a_link(path: Path, elsewhere: Path) -> None:
    """Nothing about the content changes, so only the link can be what is refused."""
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.mkdir()
    path.symlink_to(elsewhere)


def names_and_times(folder: Path) -> dict[str, int]:
    found = [path for path in folder.rglob("*") if "lock.json" not in path.name]
    return {str(path.relative_to(folder)): 0 if path.is_dir() else path.lstat().st_mtime_ns for path in found}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_with_a_link_in_it_does_not_go_on(run_here, small_run: Path, tmp_path: Path, place: str) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    moved_behind_a_link(run / place, tmp_path / "elsewhere")
    before = names_and_times(tmp_path)
    said = run_here(train, f"run.resume={run}", "trainer.max_steps=22")
    assert (said.code, f"{run / place} must not be a symbolic link" in said.err) == (2, True), said.err
    assert names_and_times(tmp_path) == before


def test_a_run_folder_may_be_a_link_and_wandb_has_its_own(run_here, small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "big_disk"))
    (run / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    (run / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "cache.log")
    (tmp_path / "run").symlink_to(run)
    refuse_links(tmp_path / "run")
    said = run_here(train, f"run.resume={tmp_path / 'run'}", "trainer.max_steps=21")
    assert said.code == 0, said.err
    (run / "latest-run").symlink_to("wandb")  # its names are no licence elsewhere
    with pytest.raises(UserError, match="latest-run must not be"):
        refuse_links(run)


def test_other_verbs_write_through_no_link(run_here, small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    moved_behind_a_link(run / "evaluations", tmp_path / "elsewhere")
    before = names_and_times(tmp_path)
    for program, *arguments in ((evaluate, f"checkpoint={run}"), (main, "sync", run)):
        said = run_here(program, *arguments)
        assert (said.code, "evaluations must not be a symbolic link" in said.err) == (2, True), said.err
    sweep = {"name": "s", "command": "", "kind": "quality", "baseline": "a", "metric": "val/loss", "arms": {"a": []},
             "jobs": [{"arm": "a", "replicate": 1, "run": str(run), "overrides": []}]}  # fmt: skip
    (tmp_path / "sweep").mkdir()
    write_json(tmp_path / "sweep" / "sweep.json", sweep)
    (tmp_path / "sweep" / "report.png").symlink_to(tmp_path / "picture")
    said = run_here(main, "report", tmp_path / "sweep")
    assert (said.code, "report.png must not be a symbolic link" in said.err) == (2, True), said.err
    shutil.rmtree(tmp_path / "sweep")
    assert names_and_times(tmp_path) == before


def test_what_is_around_a_copied_checkpoint_is_not_looked_at(run_here, small_run: Path, tmp_path: Path) -> None:
    newest = RunFolder(small_run).complete_checkpoints()[-1]
    shutil.copytree(newest, tmp_path / "kept" / newest.name)
    (tmp_path / "of_somebody").symlink_to("else")
    said = run_here(evaluate, f"checkpoint={tmp_path / 'kept' / newest.name}")
    assert said.code == 0, said.err


def test_a_traceback_takes_the_place_of_a_link(tmp_path: Path) -> None:
    """One that was put there while the run went on."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.update_status(state="running")
    (tmp_path / "mine").write_text("mine")
    (run.path / "traceback.txt").symlink_to(tmp_path / "mine")
    processes._fail(run, "ValueError: x", "Traceback")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (run.path / "traceback.txt").read_text() == "Traceback\nValueError: x\n"
    assert read_json(run.path / "status.json")["state"] == "failed"


def test_a_pipe_is_no_file(small_run: Path, tmp_path: Path) -> None:
    """Whoever opened it would wait for ever."""
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "samples.jsonl").unlink()
    os.mkfifo(run / "samples.jsonl")
    with pytest.raises(UserError, match=r"samples\.jsonl must be a file"):
        refuse_links(run)


def test_a_folder_without_a_status_has_nothing_read_for_it(run_here, small_run: Path, tmp_path: Path) -> None:
    """It could name any file of ours as its text, which would come out in its samples."""
    gift = tmp_path / "gift"
    gift.mkdir()
    shutil.copy(small_run / "config.yaml", gift)
    said = run_here(train, f"run.resume={gift}")
    assert (said.code, "must have a status.json" in said.err) == (2, True), said.err
    assert {path.name for path in gift.iterdir()} == {"config.yaml", "lock.json.held"}


def test_what_had_ended_before_anything_was_done_has_ended_as_it_had(small_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(small_run, tmp_path / "run")))
    processes._fail(folder, "RuntimeError: no", "where it was")
    assert folder.status["state"] == "finished"
    folder.update_status(state="running")
    processes._fail(folder, "RuntimeError: no", "where it was")
    assert folder.status["state"] == "failed"
    assert "where it was" in (folder.path / "traceback.txt").read_text()
