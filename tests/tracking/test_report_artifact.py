"""A published sweep report, read back from W&B's offline log."""

from pathlib import Path

import pytest

from minimind.tracking.config import WandbSettings
from minimind.tracking.report_artifact import FILES, publish_report


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    folder = tmp_path / "norm-0123abcd"
    folder.mkdir()
    for name in FILES:
        is_image = name.endswith("png")
        (folder / name).write_bytes((next(root.glob("runs/*/loss.png"))).read_bytes() if is_image else b"{}")
    return folder


def test_a_report_is_an_artifact_in_the_group_of_its_sweep(folder: Path, wandb_log, small_run: Path) -> None:
    for _ in range(2):  # a second report replaces the first
        assert publish_report(folder, WandbSettings(project="p", tags=["a"])) is None
    (offline,) = (folder / "wandb").glob("offline-run-*")
    log = wandb_log(offline)
    (run,) = log.of("run")
    assert (run["run_group"], run["job_type"], run["project"]) == ("norm-0123abcd", "report", "p")
    (artifact,) = log.of("artifact")
    assert {entry["path"] for entry in artifact["manifest"]["contents"]} == set(FILES)
    assert [ended.get("exit_code", 0) for ended in log.of("exit")] == [0]


def test_a_failure_is_reported_in_one_line(folder: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "/nowhere")
    (folder / "report.md").unlink()
    (folder / "report.md").mkdir()
    (folder / "wandb").write_text("in the way")
    problem = publish_report(folder, WandbSettings())
    assert problem is not None
    assert "\n" not in problem
