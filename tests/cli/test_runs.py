"""Small runs through the real command line, started from another directory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minimind.runs.metrics_file import read_rows
from minimind.utils.files import read_json

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def test_a_finished_run_leaves_all_its_files(small_run: Path) -> None:
    status = read_json(small_run / "status.json")
    assert (status["state"], status["step"]) == ("finished", 20)
    assert 0 <= 20 * 256 - status["tokens"] < 40  # the last window of the corpus is shorter
    assert {"versions", "git_commit", "source_hash", "data_fingerprint", "auto"} <= set(status)
    rows = read_rows(small_run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    logged = {"train/loss", "train/grad_norm", "train/lr", "train/tokens_per_second", "train/mfu",
              "train/real_token_fraction", "train/data_wait_fraction", "train/checkpoint_stall_s"}  # fmt: skip
    assert all(logged <= set(row) for row in rows)
    assert [row["step"] for row in rows if "val/bits_per_byte" in row] == [10, 20]
    summary = read_json(small_run / "summary.json")
    assert summary["val/loss"] == rows[-1]["val/loss"]
    assert set(summary["compressors"]) == {"gzip -9", "xz -9"}
    assert {"step", "prompt", "continuation"} == set(read_rows(small_run / "samples.jsonl")[0])
    assert (small_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_a_checkpoint_contains_only_tensors_and_plain_types(small_run: Path) -> None:
    folders = sorted(path.name for path in (small_run / "checkpoints").iterdir())
    assert folders == ["step_00000010", "step_00000020"]
    folder = small_run / "checkpoints" / folders[-1]
    names = {path.name for path in folder.iterdir()}
    assert names == {"state.pt", "config.yaml", "model.json", "tokenizer.json", "COMPLETE"}
    state = torch.load(folder / "state.pt", weights_only=True)
    optimizer = state["optimizer_states"][0]
    assert "model.layers.0.self_attn.q_proj.weight" in optimizer["state"]
    assert {tensor.dtype for tensor in state["state_dict"].values()} == {torch.float32}


def test_the_same_command_again_shows_the_finished_run(command, small_arguments: list[str], small_run: Path) -> None:
    before = (small_run / "metrics.jsonl").stat().st_mtime_ns
    done = command("train.py", *small_arguments, "run.name=shared")
    assert "This run is finished" in done.stdout
    assert "run.fresh=true" in done.stdout
    assert (small_run / "metrics.jsonl").stat().st_mtime_ns == before


def test_evaluate_reproduces_the_metrics_of_the_run(command, small_run: Path) -> None:
    command("evaluate.py", f"checkpoint={small_run}")
    (path,) = (small_run / "evaluations").glob("step_00000020-text-*.json")
    summary, metrics = read_json(small_run / "summary.json"), read_json(path)
    for name in ("val/loss", "val/bits_per_byte"):
        assert metrics[name] == pytest.approx(summary[name], rel=1e-4)
    assert metrics["compressors"] == summary["compressors"]


def test_evaluate_uses_all_of_another_text(command, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("something else entirely\n" * 40)
    checkpoint = small_run / "checkpoints" / "step_00000010"
    command("evaluate.py", f"checkpoint={checkpoint}", "data=text", f"data.files=[{tmp_path / 'other.txt'}]")
    (path,) = (small_run / "evaluations").glob("step_00000010-text-*.json")
    assert read_json(path)["bytes"] == (tmp_path / "other.txt").stat().st_size


def test_generate_is_reproducible_with_a_seed(command, small_run: Path) -> None:
    arguments = ["generate", str(small_run), "--prompt", "the cat", "--max-new-tokens", "12", "--seed", "3"]
    first = command("minimind", *arguments).stdout
    assert first.startswith("the cat")
    assert len(first) > len("the cat\n")
    assert command("minimind", *arguments).stdout == first
    assert command("minimind", "runs").stdout.count("shared-") == 1


def test_ctrl_c_saves_and_the_same_command_resumes(root: Path, small_arguments: list[str]) -> None:
    """A run interrupted after its first log points and resumed equals one that was never interrupted."""
    start = [sys.executable, str(REPOSITORY / "train.py"), *small_arguments, "trainer.max_steps=120",
             "trainer.validate_every_steps=120", "model.num_experts=2", "model.dropout=0.1"]  # fmt: skip
    environment = {**os.environ, "MINIMIND_ROOT": str(root)}

    def run(name: str) -> list[str]:
        return [*start, f"run.name={name}", f"run.tag={name}"]

    process = subprocess.Popen(run("ctrl_c"), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while time.time() < deadline and not list(root.glob("runs/ctrl_c-*/metrics.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    (folder,) = root.glob("runs/ctrl_c-*")
    assert process.returncode == 75, messages
    assert "Run the same command to continue" in messages
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("preempted", "SIGINT")
    assert 0 < status["step"] < 120
    for name in ("ctrl_c", "no_signal"):
        subprocess.run(run(name), env=environment, check=True, capture_output=True, timeout=120)
    (straight,) = root.glob("runs/no_signal-*")
    resumed_rows, straight_rows = (read_rows(path / "metrics.jsonl") for path in (folder, straight))
    assert [row["step"] for row in resumed_rows] == [row["step"] for row in straight_rows]
    assert [row["train/loss"] for row in resumed_rows] == [row["train/loss"] for row in straight_rows]
    assert resumed_rows[-1]["val/loss"] == straight_rows[-1]["val/loss"]


def test_multirun_runs_each_job_in_its_own_process(command, small_arguments: list[str], root: Path) -> None:
    arguments = [*small_arguments, "trainer.max_steps=2", "run.name=many", "seed=1,2"]
    command("train.py", "-m", *arguments)
    assert len(list(root.glob("runs/many-*/summary.json"))) == 2
