"""The benchmarks run, at sizes that say nothing about speed, and their last line has every figure."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def last_line(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_model_beside_transformers() -> None:
    found = last_line("model.py", "--tiny", "--rounds", "1", "--device", "cpu")
    figures = found["figures"]
    assert figures.pop("mfu") is None  # a GPU's
    assert set(figures) == {
        "step_float32", "step_bf16", "step_as_it_comes", "gemm_fraction", "moe_over_dense", "moe_step_float32",
        "moe_step_bf16", "memory_float32", "memory_bf16", "decode",
    }  # fmt: skip
    for figure in figures.values():
        low, median, high = figure["ratio"]
        assert 0 < low <= median <= high
    assert figures["decode"]["distinct_tokens"] > 1
    assert {"cpu", "cpu_flags", "threads", "versions", "rounds"} <= set(found)


def test_the_loop_beside_lightnings() -> None:
    found = last_line("trainer.py", "--rounds", "1", "--steps", "40")
    for name in ("plain_ms", "barebones_ms", "ours_ms"):
        low, median, high = found[name]
        assert 0 < low <= median <= high
    assert isinstance(found["overhead_ratio"], float)


def test_the_loggers() -> None:
    found = last_line("loggers.py", "--rows", "20", "--steps", "1")
    assert {"metrics.jsonl", "csv", "tensorboard", "wandb", "memory", "watch=all"} <= set(found["figures"])
    assert all(figure["row_ms"] > 0 for figure in found["figures"].values())
