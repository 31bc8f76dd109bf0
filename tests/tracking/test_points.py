"""Reading the run folder while it grows."""

from pathlib import Path

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_row
from minimind.tracking.mirror import shorten_paths, wandb_id
from minimind.tracking.points import Points, Tail


def test_a_partial_line_is_read_once_it_is_complete(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "rows.jsonl")
    assert tail.read() == []
    tail.path.write_text('{"a": 1}\n{"a"')
    assert tail.read() == [{"a": 1}]
    with tail.path.open("a") as file:
        file.write(": 2}\n")
    assert tail.read() == [{"a": 2}]
    assert tail.read() == []


def test_points_from_all_files_are_ordered_by_step(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    points = Points(run)
    for step in (2, 4):
        append_row(run.metrics, {"step": step, "train/loss": 1.0 / step})
    append_row(run.samples, {"step": 3, "prompt": "a", "continuation": "b"})
    append_row(run.histograms, {"step": 4, "histograms": {"h": {"low": 0, "high": 1, "counts": [1]}}})
    found = points.new()
    assert [point.step for point in found] == [2, 3, 4]
    assert [len(point.samples) for point in found] == [0, 1, 0]
    assert list(found[2].histograms) == ["h"]
    assert points.new() == []


def test_root_and_home_are_replaced_in_published_paths() -> None:
    root, home = Path("/data/me"), Path.home()
    published = shorten_paths(
        {"a": ["/data/me/runs", "/data/me", f"x={home}/b c={root}/d"], "n": 3, "z": "/data/met"}, root
    )
    assert published == {"a": ["./runs", ".", "x=~/b c=./d"], "n": 3, "z": "/data/met"}


def test_an_invalid_stored_id_is_replaced(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for stored, kept in (("abcd1234", True), ("../../elsewhere", False), ("a/b", False), ("", False), (7.5, False)):
        run.update_status(wandb_id=stored)
        assert (wandb_id(run) == stored) is kept
        assert run.status["wandb_id"] == wandb_id(run)
