"""What golden.py compares, and how it reports differences."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import compare, machine, record
from measured import TIMES, differences, json_lines, measured, sha256_of

VERSIONS = sorted((Path(__file__).parent / "fixtures").iterdir())
ROWS = [{"step": step, "train/loss": 1 / step, "val/loss": float("nan")} for step in (1, 2, 3)]


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def folder(request: pytest.FixtureRequest) -> Path:
    (found,) = request.param.glob("runs/dense-*")
    return found


def test_a_run_folder_is_measured(folder: Path) -> None:
    found = measured(folder)
    assert [row["step"] for row in found["rows"]] == [5, 10, 15, 20]
    assert "model.model.embed_tokens.weight" in found["weights"]
    assert "model.embed_tokens.weight/exp_avg" in found["moments"]
    assert found["status"]["auto"]["num_threads"] == 1
    assert found["summary"]["val/loss"] == found["rows"][-1]["val/loss"]
    assert found["samples"]
    assert len(found["evaluations"]) == 1


def test_only_times_are_left_out(folder: Path) -> None:
    whole = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    whole.append(json.loads((folder / "summary.json").read_text()))
    names = {name for row in whole for name in row}
    assert names >= TIMES, "a name in TIMES that no run has could hide a later metric of that name"
    left = {name for row in measured(folder)["rows"] for name in row} | set(measured(folder)["summary"])
    assert names - left == TIMES


def test_a_tensor_hash_depends_on_dtype_shape_and_every_bit() -> None:
    tensor = torch.tensor([[1.0, 2.0]])
    assert sha256_of(tensor) == sha256_of(tensor.clone())
    others = [tensor.T, tensor.double(), torch.tensor([[1.0, 2.0 + 2**-22]]), torch.tensor([[-0.0]]), torch.zeros(1, 1)]
    assert len({sha256_of(other) for other in [tensor, *others]}) == 6
    assert sha256_of(0.1 + 0.2) != sha256_of(0.3)


def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "train/loss": 0.25} if row["step"] == 2 else row for row in rows]


def test_the_first_difference_is_named() -> None:
    before = {"rows": ROWS, "weights": {"a": "1", "b": "2"}, "sweeps": []}
    assert differences(before, json.loads(json.dumps(before))) == []  # including NaN
    assert differences(before, {**before, "rows": changed(ROWS), "weights": {"a": "1", "b": "3"}}) == [
        "rows: 1 of 3 differ, first row 2 (step 2): 1 of 3 differ: train/loss 0.5 → 0.25",
        'weights: 1 of 2 differ: b "2" → "3"',
    ]
    assert differences(before, {**before, "rows": ROWS[:2], "sweeps": None}) == [
        "rows: 3 rows → 2; the others are equal", "sweeps: [] → None",
    ]  # fmt: skip


def test_an_incomplete_row_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"step": 1, "elapsed_s": 2}\n{"ste')
    assert json_lines(tmp_path / "rows.jsonl") == [{"step": 1}]
    assert json_lines(tmp_path / "none.jsonl") == []


def test_a_record_of_another_machine_or_an_existing_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps({"machine": {**machine(), "torch": "0.1"}, "commit": "x", "runs": {}}))
    assert compare(file, tmp_path, [], anyway=False) == 2
    assert "torch (0.1 there" in capsys.readouterr().err
    assert record(file, tmp_path, []) == 2
    assert "must not exist" in capsys.readouterr().err
