"""What callbacks add to a run."""

import re
from pathlib import Path

import pytest
import torch

from minimind.runs.metrics_file import read_rows
from minimind.training.callbacks.watch import histogram
from minimind.utils.files import read_json

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "tracking.md"
# of a GPU, and of a mixture of corpora
ELSEWHERE = {"memory/device_peak_mib", "val/<source>/loss", "val/<source>/bits_per_byte", "data/<source>/fraction",
             "data/<source>/epoch", "train/empty_steps"}  # fmt: skip


@pytest.mark.parametrize("story", ["whole"], indirect=True)
def test_the_table_in_the_docs_is_what_a_run_writes(story) -> None:
    section = DOCS.read_text(encoding="utf-8").split("\n## ")[1]
    documented = re.findall(r"^\| `([a-z_/<>]+)` \| [^|]+ \|", section, re.M)
    assert section.startswith("What is logged")
    patterns = {name: re.compile(re.sub(r"<[a-z]+>", r"[A-Za-z0-9_.]+", name)) for name in documented}
    written = {name for row in read_rows(story.folder / "metrics.jsonl") for name in row}
    for name in written:
        assert any(pattern.fullmatch(name) for pattern in patterns.values()), f"{name} is not in docs/tracking.md"
    for name, pattern in patterns.items():
        assert name in ELSEWHERE or any(pattern.fullmatch(key) for key in written), f"{name} is written by no run"


@pytest.mark.parametrize("story", ["whole"], indirect=True)
def test_load_of_each_layer_agrees_with_the_worst(story) -> None:
    for row in read_rows(story.folder / "metrics.jsonl"):
        assert row["moe/max_load"] == max(row["moe/layer_00/max_load"], row["moe/layer_01/max_load"])


@pytest.mark.parametrize("story", ["stopping"], indirect=True)
def test_early_stopping_finishes_a_run_where_a_whole_one_stops(story) -> None:
    """Had the kill lost what was seen at step 10, the run would stop at step 30."""
    assert story.codes == [-9, 0, 0], story.messages
    status = read_json(story.folder / "status.json")
    assert (status["state"], status["step"]) == ("finished", 20)
    assert "val/loss has not fallen" in status["reason"]
    assert (story.folder / "checkpoints" / "step_00000020" / "COMPLETE").is_file()
    assert read_rows(story.folder / "metrics.jsonl")[-1]["step"] == 20  # the third start has only shown it


def test_a_histogram_counts_every_value_once() -> None:
    values = torch.randn(1000)
    found = histogram(values)
    assert found is not None
    assert sum(found["counts"]) == 1000
    assert (found["low"], found["high"]) == pytest.approx((values.min().item(), values.max().item()))
    assert sum(histogram(torch.zeros(5))["counts"]) == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_gradient_has_no_histogram(bad: float) -> None:
    assert histogram(torch.tensor([1.0, bad])) is None
