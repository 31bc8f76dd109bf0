"""metrics.jsonl has each step once, however the run was interrupted."""

import json
from pathlib import Path

import pytest

from minimind.runs import metrics_file
from minimind.runs.metrics_file import append_row, append_rows, read_rows, truncate_after


@pytest.fixture
def path(tmp_path: Path) -> Path:
    append_rows(tmp_path / "metrics.jsonl", [{"step": step} for step in range(1, 6)])
    return tmp_path / "metrics.jsonl"


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def test_rows_beyond_the_checkpoint_are_moved_aside(path: Path) -> None:
    truncate_after(path, 3)
    assert (steps(path), steps(path.with_suffix(".superseded.jsonl"))) == ([1, 2, 3], [4, 5])


def test_kill_between_the_two_files_neither_loses_nor_duplicates_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metrics_file.write_text
    calls = iter([real])

    def killed_at_second_call(*arguments: object) -> None:
        write = next(calls, None)
        if write is None:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(metrics_file, "write_text", killed_at_second_call)
    with pytest.raises(KeyboardInterrupt):
        truncate_after(path, 3)
    assert steps(path) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(metrics_file, "write_text", real)
    truncate_after(path, 3)
    assert (steps(path), steps(path.with_suffix(".superseded.jsonl"))) == ([1, 2, 3], [4, 5])


def test_truncated_line_does_not_swallow_the_next(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"step": 6, "train/lo')
    truncate_after(path, 5)
    append_row(path, {"step": 6})
    assert steps(path) == [1, 2, 3, 4, 5, 6]


def test_full_disk_leaves_no_partial_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(metrics_file.json, "dumps", lambda row: json.JSONEncoder().encode(row) * 2_000)
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_rows(path, [{"step": 6}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
