"""The benchmarks run, at sizes too small to measure anything, and print every metric in their last line."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def last_line(script: str, *arguments: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_model_benchmark() -> None:
    output = last_line("model.py", "--tiny", "--rounds", "1", "--device", "cpu")
    metrics = output["figures"]
    assert metrics.pop("mfu") is None  # only measured on a GPU
    assert set(metrics) == {
        "step_float32", "step_bf16", "step_as_it_comes", "gemm_fraction", "moe_over_dense", "moe_step_float32",
        "moe_step_bf16", "memory_float32", "memory_bf16", "decode",
    }  # fmt: skip
    for metric in metrics.values():
        low, median, high = metric["ratio"]
        assert 0 < low <= median <= high
    assert metrics["decode"]["distinct_tokens"] > 1
    assert {"cpu", "cpu_flags", "threads", "versions", "rounds"} <= set(output)


def test_trainer_benchmark() -> None:
    output = last_line("trainer.py", "--rounds", "1", "--steps", "40")
    for name in ("plain_ms", "barebones_ms", "ours_ms"):
        low, median, high = output[name]
        assert 0 < low <= median <= high
    assert isinstance(output["overhead_ratio"], float)


def test_checkpoint_benchmark() -> None:
    output = last_line("checkpoint.py", "--tiny", "--rounds", "1", "--steps", "2")
    for name in ("stall_s", "torch_save_s", "torch_save_fsync_s", "with_s", "without_s"):
        low, median, high = output[name]
        assert 0 < low <= median <= high
    for name in ("stall_over_torch_save", "cost_share_at_one_a_minute", "first_stall_s"):
        assert isinstance(output[name], float)


def test_loggers_benchmark() -> None:
    output = last_line("loggers.py", "--rows", "20", "--steps", "1")
    assert {"metrics.jsonl", "csv", "tensorboard", "wandb", "memory", "watch=all"} <= set(output["figures"])
    assert all(metric["row_ms"] > 0 for metric in output["figures"].values())


def test_data_benchmark(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "elapsed_s": 2.0, "train/data_wait_fraction": 0.01}\n{"step": 1, "elapsed_s": 2.0}\n'
        '{"step": 2, "elapsed_s": 8.0, "train/data_wait_fraction": 0.002}\n'
    )
    output = last_line("data.py", "--tiny", "--rounds", "1", "--run", str(tmp_path))
    metrics = output["figures"]
    litdata = metrics.pop("beside_litdata")
    assert (litdata is None) == (importlib.util.find_spec("litdata") is None)
    assert metrics["data_wait"]["value"] == [0.004] * 3
    assert set(metrics) == {
        "load_warm", "load_cold", "hashing", "seek", "data_wait", "prepare_over_tokenizers", "prepare_two_over_one",
        "prepare_memory",
    }  # fmt: skip
    for metric in metrics.values():
        low, median, high = metric["value"]
        assert 0 < low <= median <= high
    assert {"machine", "cores", "tokens", "rounds", "versions"} <= set(output)
