"""Our model compared with transformers' Qwen3 and Qwen3-MoE of the same shape and weights, interleaved in one run.

    python benchmarks/model.py [--rounds 5] [--only step_float32 decode] [--device cuda] [--tiny]

A round times A B B A, so that a machine that speeds up or slows down favours neither side. A step is forward, loss,
backward, clipping by norm and fused AdamW. Ratios are theirs ÷ ours (above 1, ours is faster or smaller), except for
names with `_over_`. The last line is JSON, with null for what could not be measured on this machine.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_pair
import torch
from model_pair import Step
from spread import extremes
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimind.model.config import ModelConfig
from minimind.model.linear import linear
from minimind.utils.hardware import cpu_info, keep_freed_memory, peak_flops, pick_device, pick_precision

FLAGS = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile"}
TARGETS = {  # from issue 3, for two CPU cores
    "step_float32": ">= 1.05", "step_bf16": ">= 1.1", "step_as_it_comes": ">= 1.6", "gemm_fraction": ">= 0.6",
    "moe_over_dense": "<= 1.15", "memory_float32": ">= 1", "memory_bf16": ">= 1", "decode": ">= 2",
}  # fmt: skip


class Bench:
    """Settings shared by all measurements: sizes, device, number of rounds."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.tiny, self.rounds = arguments.tiny, arguments.rounds
        self.device = pick_device(arguments.device)
        num_sequences = 64 if self.device.type == "cuda" else 4
        self.batch = (2, 32) if self.tiny else (num_sequences, 512)
        self.precision = pick_precision("auto", self.device)

    def step(self, side: str, precision: str, **changes: Any) -> Step:
        """A training step of one side's model alone, with its own initial weights."""
        cfg = model_pair.shape(self.tiny, **changes)
        build = model_pair.our_model if side == "ours" else model_pair.their_model
        loss = model_pair.our_loss if side == "ours" else model_pair.their_loss
        return model_pair.training_step(build(cfg, self.device), loss, self.ids(cfg), precision)  # type: ignore[operator]

    def pair(self, our_precision: str, their_precision: str, **changes: Any) -> tuple[Step, Step]:
        """Training steps of both sides from the same weights. A dense pair must start with the same loss."""
        cfg = model_pair.shape(self.tiny, **changes)
        ids, (ours, theirs) = self.ids(cfg), model_pair.build_pair(cfg, self.device)
        with torch.no_grad():
            a, b = model_pair.our_loss(ours, ids).item(), model_pair.their_loss(theirs, ids).item()
        if not cfg.num_experts and abs(a - b) > 1e-4 * abs(b):
            raise AssertionError(f"Both sides must compute the same loss, but ours is {a} and theirs {b}.")
        return (
            model_pair.training_step(ours, model_pair.our_loss, ids, our_precision),
            model_pair.training_step(theirs, model_pair.their_loss, ids, their_precision),
        )

    def ids(self, cfg: ModelConfig) -> torch.Tensor:
        return model_pair.tokens(cfg, *self.batch, self.device)

    def seconds(self, work: Step) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def interleaved(self, ours: Step, theirs: Step) -> list[tuple[float, float]]:
        """Mean seconds of both in each round of A B B A, after a warm-up."""
        for work in (ours, theirs):
            work()
        rounds = []
        for _ in range(self.rounds):
            a, b, c, d = (self.seconds(work) for work in (ours, theirs, theirs, ours))
            rounds.append(((a + d) / 2, (b + c) / 2))
        return rounds


def compare(rounds: list[tuple[float, float]], ours: str = "ours_ms", theirs: str = "theirs_ms") -> dict[str, Any]:
    return {
        "ratio": extremes([b / a for a, b in rounds]),
        ours: extremes([1000 * a for a, _ in rounds]),
        theirs: extremes([1000 * b for _, b in rounds]),
    }


def step_float32(bench: Bench) -> dict[str, Any]:
    return compare(bench.interleaved(*bench.pair("32-true", "32-true")))


def step_bf16(bench: Bench) -> dict[str, Any]:
    return compare(bench.interleaved(*bench.pair("bf16-mixed", "bf16-mixed")))


def step_as_it_comes(bench: Bench) -> dict[str, Any]:
    """Each with its default precision: ours is chosen for the machine, as in train.py; theirs is float32."""
    return {**compare(bench.interleaved(*bench.pair(bench.precision, "32-true"))), "our_precision": bench.precision}


def gemm_fraction(bench: Bench) -> dict[str, Any]:
    """FLOP/s of our float32 step ÷ FLOP/s of the MLP's matrix product alone, per round."""
    cfg = model_pair.shape(bench.tiny)
    num_tokens, repeats = bench.batch[0] * bench.batch[1], 2 if bench.tiny else 60
    x = torch.randn(num_tokens, cfg.hidden_size, device=bench.device)
    matrix = torch.randn(cfg.resolved_intermediate_size, cfg.hidden_size, device=bench.device)

    def product() -> None:
        with torch.no_grad():
            for _ in range(repeats):
                linear(x, matrix)

    rounds = bench.interleaved(bench.step("ours", "32-true"), product)
    step_flops = cfg.flops_per_token(bench.batch[1]) * num_tokens
    gemm_flops = 2 * repeats * num_tokens * matrix.numel()
    return {
        "ratio": extremes([(step_flops / a) / (gemm_flops / b) for a, b in rounds]),
        "step_gflops": extremes([step_flops / a / 1e9 for a, _ in rounds]),
        "gemm_gflops": extremes([gemm_flops / b / 1e9 for _, b in rounds]),
    }


def moe_over_dense(bench: Bench) -> dict[str, Any]:
    """Our MoE step (4 experts, top-1) ÷ our dense step with equal active parameters."""
    dense, moe = bench.step("ours", bench.precision), bench.step("ours", bench.precision, **model_pair.MOE)
    return compare(bench.interleaved(dense, moe), "dense_ms", "moe_ms") | {"precision": bench.precision}


def moe_step_float32(bench: Bench) -> dict[str, Any]:
    return compare(bench.interleaved(*bench.pair("32-true", "32-true", **model_pair.MOE)))


def moe_step_bf16(bench: Bench) -> dict[str, Any]:
    return compare(bench.interleaved(*bench.pair("bf16-mixed", "bf16-mixed", **model_pair.MOE)))


def decode(bench: Bench) -> dict[str, Any]:
    """Greedy decoding with a KV cache, batch size 1, float32; both must generate the same tokens."""
    cfg = model_pair.shape(bench.tiny, **model_pair.VARIED_OUTPUT)
    ours, theirs = model_pair.build_pair(cfg, bench.device)
    prompt = model_pair.tokens(cfg, 1, 16, bench.device)
    count = 8 if bench.tiny else 128
    texts = model_pair.our_greedy(ours, prompt, count), model_pair.their_greedy(theirs, prompt, count)
    if texts[0] != texts[1] or len(texts[0]) != count:
        raise AssertionError(f"Both sides must generate the same {count} tokens, but gave {texts[0]} and {texts[1]}.")
    rounds = bench.interleaved(
        lambda: model_pair.our_greedy(ours, prompt, count), lambda: model_pair.their_greedy(theirs, prompt, count)
    )
    return {
        "ratio": extremes([b / a for a, b in rounds]),
        "ours_tokens_per_s": extremes([count / a for a, _ in rounds]),
        "theirs_tokens_per_s": extremes([count / b for _, b in rounds]),
        "distinct_tokens": len(set(texts[0])),
    }


def memory(bench: Bench, precision: str) -> dict[str, Any]:
    """Peak memory of a few training steps minus that before the model was built, each side in its own process."""
    command = [sys.executable, __file__, "--device", bench.device.type, *(["--tiny"] if bench.tiny else [])]
    children = {
        side: subprocess.Popen([*command, "--memory-of", side, precision], stdout=subprocess.PIPE, text=True)
        for side in ("ours", "theirs")
    }
    output = {side: child.communicate()[0] for side, child in children.items()}
    if any(child.returncode for child in children.values()):
        raise RuntimeError("A process that measures memory failed; its error is above.")
    mb = {side: float(text.split()[-1]) / 1e6 for side, text in output.items()}
    return {"ratio": extremes([mb["theirs"] / mb["ours"]]), "ours_mb": mb["ours"], "theirs_mb": mb["theirs"]}


def memory_float32(bench: Bench) -> dict[str, Any]:
    return memory(bench, "32-true")


def memory_bf16(bench: Bench) -> dict[str, Any]:
    return memory(bench, "bf16-mixed")


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # On Linux ru_maxrss starts from the parent's peak; VmHWM is of this process only.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def print_memory(bench: Bench, side: str, precision: str) -> None:
    """Job of `memory`'s child process. Runs a tiny step first, to exclude imports and thread pools."""
    tiny = argparse.Namespace(tiny=True, rounds=1, device=bench.device.type)
    Bench(tiny).step(side, precision)()
    before = peak_bytes(bench.device)
    step = bench.step(side, precision)
    for _ in range(3):
        step()
    print(max(1, peak_bytes(bench.device) - before))


def mfu(bench: Bench) -> dict[str, Any] | None:
    """Achieved FLOP/s ÷ peak FLOP/s; None unless the GPU is in the table of peaks."""
    peak = peak_flops(bench.device, "bf16-mixed", linear) if bench.device.type == "cuda" else None
    if peak is None:
        return None
    step, cfg = bench.step("ours", "bf16-mixed"), model_pair.shape(bench.tiny)
    flops = cfg.flops_per_token(bench.batch[1]) * bench.batch[0] * bench.batch[1]
    for _ in range(3):
        step()
    return {"ratio": extremes([flops / bench.seconds(step) / peak for _ in range(4 * bench.rounds)])}


MEASURES: dict[str, Callable[[Bench], dict[str, Any] | None]] = {
    measure.__name__: measure
    for measure in (
        step_float32, step_bf16, step_as_it_comes, gemm_fraction, moe_over_dense, moe_step_float32, moe_step_bf16,
        memory_float32, memory_bf16, decode, mfu,
    )
}  # fmt: skip


def line(name: str, result: dict[str, Any] | None) -> str:
    if result is None:
        return f"{name:17} not measured"
    low, median, high = result["ratio"]
    rest = [
        f"{key} {value[1] if isinstance(value, list) else value:.5g}"
        for key, value in result.items()
        if key != "ratio" and not isinstance(value, str)
    ]
    target = f"   target {TARGETS[name]}" if name in TARGETS else ""
    return f"{name:17} {median:6.3f}  ({low:.3f} – {high:.3f}){target:17}   {', '.join(rest)}"


def machine(bench: Bench) -> dict[str, Any]:
    text = cpu_info()
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else bench.device.type,
        "machine": platform.platform(), "cpu": names[0] if names else platform.processor(),
        "cpu_flags": sorted(FLAGS & set(text.split())), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "minimind")},
        "tokens": list(bench.batch), "tiny": bench.tiny, "rounds": bench.rounds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes too small to measure anything, for tests")
    parser.add_argument("--only", nargs="+", default=list(MEASURES), choices=MEASURES, metavar="NAME")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    keep_freed_memory()  # as train.py does; both sides profit
    cudnn = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(cudnn, set_priority=True) if bench.device.type == "cuda" else contextlib.nullcontext():
        if arguments.memory_of:
            print_memory(bench, *arguments.memory_of)
            return
        results: dict[str, Any] = dict.fromkeys(MEASURES)
        for name, measure in MEASURES.items():
            results[name] = measure(bench) if name in arguments.only else None
            print(line(name, results[name]), flush=True)
    print(json.dumps({"figures": results, **machine(bench)}))


if __name__ == "__main__":
    main()
