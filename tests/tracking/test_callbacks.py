"""What callbacks add to a run, and docs/tracking.md on it."""

import re
from pathlib import Path

import pytest
import torch

from minimind.runs.metrics_file import read_rows
from minimind.training.callbacks.watch import histogram
from minimind.utils.files import read_json

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "tracking.md"
# only written on a GPU or for a mixture of corpora
SKIPPED = {"memory/device_peak_mib", "val/<source>/loss", "val/<source>/bits_per_byte", "data/<source>/fraction",
           "data/<source>/epoch", "train/empty_steps"}  # fmt: skip


@pytest.mark.parametrize("scenario", ["uninterrupted"], indirect=True)
def test_the_table_in_the_docs_matches_what_a_run_writes(scenario) -> None:
    section = DOCS.read_text(encoding="utf-8").split("\n## ")[1]
    documented = re.findall(r"^\| `([a-z_/<>]+)` \| [^|]+ \|", section, re.M)
    assert section.startswith("What is logged")
    patterns = {name: re.compile(re.sub(r"<[a-z]+>", r"[A-Za-z0-9_.]+", name)) for name in documented}
    written = {name for row in read_rows(scenario.folder / "metrics.jsonl") for name in row}
    for name in written:
        assert any(pattern.fullmatch(name) for pattern in patterns.values()), f"{name} is not in docs/tracking.md"
    for name, pattern in patterns.items():
        assert name in SKIPPED or any(pattern.fullmatch(key) for key in written), f"no run writes {name}"


@pytest.mark.parametrize("scenario", ["uninterrupted"], indirect=True)
def test_max_load_is_the_maximum_over_layers(scenario) -> None:
    for row in read_rows(scenario.folder / "metrics.jsonl"):
        assert row["moe/max_load"] == max(row["moe/layer_00/max_load"], row["moe/layer_01/max_load"])


@pytest.mark.parametrize("scenario", ["stopping"], indirect=True)
def test_early_stopping_survives_a_kill(scenario) -> None:
    """Had the kill lost the validation at step 10, the run would stop at step 30."""
    assert scenario.codes == [-9, 0, 0], scenario.messages
    status = read_json(scenario.folder / "status.json")
    assert (status["state"], status["step"]) == ("finished", 20)
    assert "val/loss has not fallen" in status["reason"]
    assert (scenario.folder / "checkpoints" / "step_00000020" / "COMPLETE").is_file()
    assert read_rows(scenario.folder / "metrics.jsonl")[-1]["step"] == 20  # the third start only shows the results


def test_a_histogram_counts_every_value_once() -> None:
    values = torch.randn(1000)
    found = histogram(values)
    assert found is not None
    assert sum(found["counts"]) == 1000
    assert (found["low"], found["high"]) == pytest.approx((values.min().item(), values.max().item()))
    assert sum(histogram(torch.zeros(5))["counts"]) == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_has_no_histogram(bad: float) -> None:
    assert histogram(torch.tensor([1.0, bad])) is None
