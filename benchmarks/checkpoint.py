"""How long training stalls for a checkpoint, compared with a plain `torch.save` of the same state.

    python benchmarks/checkpoint.py [--rounds 7] [--steps 12] [--tiny]

The state is that of a 26M model (conf/model/minimind_26m) after a step of AdamW: weights and two moments.

stall       time that the training thread spends in `Saver.start`, copying to memory. The first save also allocates
            that memory and is reported separately
torch.save  the same state written directly to a file, without and with fsync
cost        how much longer `--steps` training steps take if a save starts at the first of them: the stall, plus what
            the concurrent writing takes from training

Everything is interleaved in one run. Prints medians with quartiles; the last line is JSON.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from spread import quartiles
from torch.nn import functional as F

from minimind.model.config import ModelConfig
from minimind.model.transformer import MiniMind
from minimind.runs.folder import RunFolder
from minimind.training.config import TrainerConfig
from minimind.training.saver import Saver

TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
SIZE_26M = {"vocab_size": 6400, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 2}  # fmt: skip


class Training:
    """A model, its optimizer, and training steps on random tokens."""

    def __init__(self, tiny: bool) -> None:
        torch.manual_seed(0)
        self.cfg = ModelConfig(**(TINY if tiny else SIZE_26M))
        self.model = MiniMind(self.cfg)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(self.cfg.vocab_size, (2, 33 if tiny else 257))
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        logits = self.model(self.tokens[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1).float(), self.tokens[:, 1:].flatten()).backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"state_dict": self.model.state_dict(), "optimizer_states": [self.optimizer.state_dict()]}


def run_folder(path: Path) -> RunFolder:
    path.mkdir()
    (path / "config.yaml").write_text("model: {}")
    (path / "tokenizer.json").write_text("{}")
    return RunFolder(path)


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain_save(state: dict[str, Any], path: Path, sync: bool) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    path.unlink()


def measure_round(training: Training, saver: Saver, number: int, folder: Path, steps: int) -> dict[str, float]:
    times: dict[str, float] = {}

    def save() -> None:
        saver.start(number, training.state(), is_best=False, tokens=0)

    def with_save() -> None:
        times["stall"] = seconds(save)
        for _ in range(steps):
            training.step()

    def without() -> None:
        for _ in range(steps):
            training.step()

    def measure_cost() -> None:
        for name, action in (("with", with_save), ("without", without))[:: 1 if number % 2 else -1]:
            times[name] = seconds(action)
            start = time.perf_counter()
            saver.finish("benchmark")
            if name == "with":
                times["write_beyond_steps"] = time.perf_counter() - start

    def measure_plain() -> None:
        state = training.state()
        times["torch_save"] = seconds(lambda: plain_save(state, folder / "plain.pt", sync=False))
        times["torch_save_fsync"] = seconds(lambda: plain_save(state, folder / "plain.pt", sync=True))

    for part in (measure_cost, measure_plain)[:: 1 if number % 2 else -1]:
        part()
    times["cost"] = times["with"] - times["without"]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tiny", action="store_true", help="a size too small to measure anything, for tests")
    arguments = parser.parse_args()
    training = Training(arguments.tiny)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        saver = Saver(run_folder(folder / "run"), TrainerConfig())
        first = measure_round(training, saver, 1, folder, 1)["stall"]
        rounds = [
            measure_round(training, saver, number + 2, folder, arguments.steps) for number in range(arguments.rounds)
        ]
    metrics = {f"{key}_s": quartiles([r[key] for r in rounds]) for key in rounds[0]}
    stall, save = metrics["stall_s"][1], metrics["torch_save_s"][1]
    result = {
        **metrics,
        "first_stall_s": round(first, 4),
        "stall_over_torch_save": round(stall / save, 4),
        "stall_over_torch_save_fsync": round(stall / metrics["torch_save_fsync_s"][1], 4),
        "stall_share_at_one_a_minute": round(stall / 60, 6),
        "cost_share_at_one_a_minute": round(metrics["cost_s"][1] / 60, 6),
        "parameters": training.cfg.num_parameters(),
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for name, (low, median, high) in metrics.items():
        print(f"{name:22} median {median:7.4f}   quartiles {low:7.4f} … {high:7.4f}")
    print(
        f"stall ÷ torch.save {result['stall_over_torch_save']:.2f} (with fsync "
        f"{result['stall_over_torch_save_fsync']:.2f}); at one save per minute: stall "
        f"{result['stall_share_at_one_a_minute']:.3%}, total cost {result['cost_share_at_one_a_minute']:.3%}"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
