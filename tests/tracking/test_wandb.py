"""W&B's log compared with metrics.jsonl: after a clean run, after kills, in a multirun, and when W&B fails."""

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minimind.runs.identity import run_hash
from minimind.runs.metrics_file import read_rows
from minimind.runs.stored_config import read_config
from minimind.utils.files import read_json

COMPARED = ("train/loss", "val/loss", "train/grad_norm", "tokens")


def uses_scenario(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", [name], indirect=True, ids=[""])


def offline_run(folder: Path, number: int = 0) -> Path:
    return sorted((folder / "wandb").glob("offline-run-*"))[number]


def clean_run(folder: Path) -> Path:
    (clean,) = (folder / "wandb_sync" / "wandb").glob("offline-run-*")
    return clean


@uses_scenario("uninterrupted")
def test_a_run_is_mirrored_row_by_row(scenario, wandb_log) -> None:
    assert scenario.codes == [0], scenario.messages
    rows = read_rows(scenario.folder / "metrics.jsonl")
    log = wandb_log(offline_run(scenario.folder))
    assert len(list((scenario.folder / "wandb").glob("offline-run-*"))) == 1
    assert log.rows(rows) == rows
    (run,) = log.of("run")
    assert (run["project"], run["display_name"], run["job_type"]) == ("minimind", scenario.folder.name, "train")
    assert (run["tags"], run["notes"]) == (["a", "b"], "why")
    assert run["run_id"] == read_json(scenario.folder / "status.json")["wandb_id"]
    assert log.of("exit")[0]["exit_code"] == 0
    assert log.of("stats"), "no system metrics"
    axes = {metric.get("name", metric.get("glob_name")): metric.get("step_metric") for metric in log.of("metric")}
    assert axes == {"step": None, "tokens": None, "*": "step"}
    summary = {name: value for update in log.of("summary") for name, value in update["update"].items()}
    for name, value in read_json(scenario.folder / "summary.json").items():
        if not isinstance(value, dict):
            assert summary[name] == value, name


@uses_scenario("uninterrupted")
def test_samples_plot_and_histograms_are_logged_as_media(scenario, wandb_log) -> None:
    history = wandb_log(offline_run(scenario.folder)).history
    assert [item["step"] for item in history if "samples.path" in item] == [5, 10, 15, 20]
    assert [item["step"] for item in history if "loss.path" in item] == [20]
    files = offline_run(scenario.folder) / "files"
    pages = {item["step"]: (files / item["samples.path"]).read_text() for item in history if "samples.path" in item}
    last = read_rows(scenario.folder / "samples.jsonl")[-1]
    assert last["step"] == 20
    assert last["continuation"] in pages[20]
    watched = {name for name in history[-1] if name.startswith("watch/") and name.endswith(".values")}
    for name in ("watch/gradients/lm_head.weight", "watch/weights/lm_head.weight", "watch/moe_load/layer_00"):
        assert f"{name}.values" in watched


@uses_scenario("uninterrupted")
def test_the_published_config_is_enough_to_repeat_a_run(scenario, wandb_log, identity_of) -> None:
    config = wandb_log(offline_run(scenario.folder)).config
    record = config["record"]
    status = read_json(scenario.folder / "status.json")
    for name in ("git_commit", "source_hash", "data_fingerprint", "versions", "auto", "parameters"):
        assert record[name] == status[name]
    program, script, *overrides = shlex.split(record["command"])
    assert (program, script) == ("python", "train.py")
    assert scenario.folder.name == f"scenario_uninterrupted-{identity_of(overrides)}"
    kept = {name: value for name, value in config.items() if name not in ("record", "_wandb")}
    assert run_hash({**kept, "paths": {}}).isalnum()  # all settings are present and known
    assert kept["trainer"]["batch_tokens"] == 256


@uses_scenario("uninterrupted")
def test_nothing_secret_is_logged(scenario, wandb_log) -> None:
    """Compares whole strings and ignores those in the settings: a host may be called `vm` or `cpu`."""
    for path in (path for path in (scenario.folder / "wandb").rglob("*") if path.is_file()):
        assert b"sesame-open" not in path.read_bytes(), path
    records = wandb_log(offline_run(scenario.folder)).records
    texts = set(texts_of(records))
    assert scenario.folder.name in texts
    assert socket.gethostname() not in texts - set(texts_of(read_config(scenario.folder / "config.yaml")))
    assert not [record for record in records if record["type"] == "environment"]
    assert not [text for text in texts if str(scenario.folder.parent.parent) in text]


def texts_of(value: Any) -> Iterator[str]:
    """All strings in nested records."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
    elif isinstance(value, dict):
        yield from texts_of(list(value.values()))


@uses_scenario("interrupted")
def test_kills_leave_no_gaps_or_duplicate_points(scenario, wandb_log) -> None:
    assert scenario.codes == [-9, -9, 75, 0], scenario.messages
    rows = read_rows(scenario.folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 81, 2))
    starts = sorted((scenario.folder / "wandb").glob("offline-run-*"))
    assert {path.name.rsplit("-", 1)[1] for path in starts} == {read_json(scenario.folder / "status.json")["wandb_id"]}
    last = wandb_log(starts[-1])
    assert last.rows(rows) == rows  # the log of the last start also has the rows of earlier ones
    stopped = wandb_log(starts[-2])
    assert stopped.of("preempting")
    assert stopped.of("exit")[0]["exit_code"] == 75


@uses_scenario("interrupted")
def test_sync_makes_one_clean_run(scenario, wandb_log) -> None:
    """Synced after the second kill, up to the last checkpoint at that time, and again at the end."""
    rows = read_rows(scenario.folder / "metrics.jsonl")
    (synced,) = scenario.synced
    assert [row["step"] for row in synced] == list(range(2, synced[-1]["step"] + 1, 2))
    assert synced[-1]["step"] % 10 == 0
    for row, final in zip(synced, rows, strict=False):
        assert {name: row.get(name) for name in COMPARED} == {name: final.get(name) for name in COMPARED}
    log = wandb_log(clean_run(scenario.folder))
    assert log.rows(rows) == rows
    assert log.of("exit")[0]["exit_code"] == 0
    assert log.of("run")[0]["run_id"] == read_json(scenario.folder / "status.json")["wandb_id"]
    assert [item["step"] for item in log.history if "samples.path" in item] == [80]


@uses_scenario("service_killed")
def test_training_continues_when_the_service_is_killed(scenario) -> None:
    assert scenario.codes == [0], scenario.messages
    assert scenario.messages[0].count("W&B: the mirror has stopped") == 1


@uses_scenario("unwritable")
def test_training_continues_when_the_folder_is_not_writable(scenario, scenarios) -> None:
    """Samples and watching do not change metrics either: the run compared with has both, this one neither."""
    assert scenario.codes == [0], scenario.messages
    assert scenario.messages[0].count("W&B: the mirror has stopped") == 1
    assert same_metrics(scenario.folder, scenarios["service_killed"].result().folder)


def same_metrics(one: Path, other: Path) -> bool:
    rows = [
        [{n: row.get(n) for n in ("step", *COMPARED)} for row in read_rows(f / "metrics.jsonl")] for f in (one, other)
    ]
    return rows[0] == rows[1] and len(rows[0]) == 40


@uses_scenario("multirun")
def test_each_job_of_a_multirun_is_a_run_of_one_group(scenario, wandb_log) -> None:
    assert scenario.codes == [0], scenario.messages
    folders = sorted(scenario.folder.glob("scenario_multirun-????????"))
    logs = [wandb_log(offline_run(folder)) for folder in folders]
    assert len({log.of("run")[0]["run_id"] for log in logs}) == 3
    (group,) = {log.of("run")[0]["run_group"] for log in logs}
    assert group.startswith("sweep-")
    for folder, log in zip(folders, logs, strict=True):
        rows = read_rows(folder / "metrics.jsonl")
        assert log.rows(rows) == rows
    assert {log.config["seed"] for log in logs} == {1, 2, 3}
