"""Links in an untrusted run folder are refused, so their targets are neither written nor deleted."""

import os
import shutil
from pathlib import Path

import pytest

from minimind.cli import evaluate, main, processes, train
from minimind.runs.folder import RunFolder
from minimind.runs.links import refuse_links
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

LINKS = ["status.json", "traceback.txt", "samples.jsonl", "metrics.superseded.jsonl", "checkpoints", "loss.png",
          "checkpoints/step_00000010", "checkpoints/step_00000010/state.pt", "lock.json", "lock.json.held",
          "evaluations", "csv", "wandb", "wandb/wandb", "wandb/settings", "new"]  # fmt: skip


def replace_with_link(path: Path, elsewhere: Path) -> None:
    """Move the file or folder and link to it; as the content is unchanged, only the link can be refused."""
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.mkdir()
    path.symlink_to(elsewhere)


def modification_times(folder: Path) -> dict[str, int]:
    found = [path for path in folder.rglob("*") if "lock.json" not in path.name]
    return {str(path.relative_to(folder)): 0 if path.is_dir() else path.lstat().st_mtime_ns for path in found}


@pytest.mark.parametrize("link", LINKS)
def test_run_with_a_link_does_not_resume(run_here, small_run: Path, tmp_path: Path, link: str) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    replace_with_link(run / link, tmp_path / "elsewhere")
    before = modification_times(tmp_path)
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=22")
    assert (result.code, f"{run / link} must not be a symbolic link" in result.err) == (2, True), result.err
    assert modification_times(tmp_path) == before


def test_run_folder_itself_and_wandbs_own_links_are_allowed(run_here, small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "big_disk"))
    (run / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    (run / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "cache.log")
    (tmp_path / "run").symlink_to(run)
    refuse_links(tmp_path / "run")
    result = run_here(train, f"run.resume={tmp_path / 'run'}", "trainer.max_steps=21")
    assert result.code == 0, result.err
    (run / "latest-run").symlink_to("wandb")  # not allowed outside W&B's folders
    with pytest.raises(UserError, match="latest-run must not be"):
        refuse_links(run)


def test_other_commands_refuse_links(run_here, small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    replace_with_link(run / "evaluations", tmp_path / "elsewhere")
    before = modification_times(tmp_path)
    for program, *arguments in ((evaluate, f"checkpoint={run}"), (main, "sync", run)):
        result = run_here(program, *arguments)
        assert (result.code, "evaluations must not be a symbolic link" in result.err) == (2, True), result.err
    sweep = {"name": "s", "command": "", "kind": "quality", "baseline": "a", "metric": "val/loss", "arms": {"a": []},
             "jobs": [{"arm": "a", "replicate": 1, "run": str(run), "overrides": []}]}  # fmt: skip
    (tmp_path / "sweep").mkdir()
    write_json(tmp_path / "sweep" / "sweep.json", sweep)
    (tmp_path / "sweep" / "report.png").symlink_to(tmp_path / "picture")
    result = run_here(main, "report", tmp_path / "sweep")
    assert (result.code, "report.png must not be a symbolic link" in result.err) == (2, True), result.err
    shutil.rmtree(tmp_path / "sweep")
    assert modification_times(tmp_path) == before


def test_links_beside_a_copied_checkpoint_are_ignored(run_here, small_run: Path, tmp_path: Path) -> None:
    newest = RunFolder(small_run).complete_checkpoints()[-1]
    shutil.copytree(newest, tmp_path / "kept" / newest.name)
    (tmp_path / "unrelated").symlink_to("elsewhere")
    result = run_here(evaluate, f"checkpoint={tmp_path / 'kept' / newest.name}")
    assert result.code == 0, result.err


def test_traceback_replaces_a_link(tmp_path: Path) -> None:
    """A link created during the run."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.update_status(state="running")
    (tmp_path / "mine").write_text("mine")
    (run.path / "traceback.txt").symlink_to(tmp_path / "mine")
    processes._report_failure(run, "ValueError: x", "Traceback")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (run.path / "traceback.txt").read_text() == "Traceback\nValueError: x\n"
    assert read_json(run.path / "status.json")["state"] == "failed"


def test_pipe_is_refused(small_run: Path, tmp_path: Path) -> None:
    """Reading it would block forever."""
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "samples.jsonl").unlink()
    os.mkfifo(run / "samples.jsonl")
    with pytest.raises(UserError, match=r"samples\.jsonl must be a regular file"):
        refuse_links(run)


def test_folder_without_a_status_is_refused(run_here, small_run: Path, tmp_path: Path) -> None:
    """Its configuration could name any private file as training text, which would then appear in samples."""
    untrusted = tmp_path / "untrusted"
    untrusted.mkdir()
    shutil.copy(small_run / "config.yaml", untrusted)
    result = run_here(train, f"run.resume={untrusted}")
    assert (result.code, "must have a status.json" in result.err) == (2, True), result.err
    assert {path.name for path in untrusted.iterdir()} == {"config.yaml", "lock.json.held"}


def test_failure_does_not_change_the_state_of_a_finished_run(small_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(small_run, tmp_path / "run")))
    processes._report_failure(folder, "RuntimeError: no", "where it was")
    assert folder.status["state"] == "finished"
    folder.update_status(state="running")
    processes._report_failure(folder, "RuntimeError: no", "where it was")
    assert folder.status["state"] == "failed"
    assert "where it was" in (folder.path / "traceback.txt").read_text()
