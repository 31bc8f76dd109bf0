"""CSV and TensorBoard contain the rows of metrics.jsonl, after kills as well as after a clean run."""

import csv
from pathlib import Path
from typing import Any

import pytest

from minimind.runs.metrics_file import read_rows


def csv_rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "csv" / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("scenario", ["uninterrupted", "interrupted"], indirect=True)
def test_the_csv_file_has_the_same_rows(scenario) -> None:
    assert csv_rows(scenario.folder) == read_rows(scenario.folder / "metrics.jsonl")


@pytest.mark.filterwarnings("ignore")  # from tensorboard itself
@pytest.mark.parametrize("scenario", ["uninterrupted", "interrupted"], indirect=True)
def test_tensorboard_has_the_same_points(scenario) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(scenario.folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = read_rows(scenario.folder / "metrics.jsonl")
    for name in ("train/loss", "val/loss", "train/tokens_per_second"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    if scenario.folder.name.startswith("scenario_uninterrupted"):
        tags = events.Tags()
        assert "watch/gradients/lm_head.weight" in tags["histograms"]
        assert "sample 1/text_summary" in tags["tensors"]
