"""Runs in a new process that tests can watch, stop, kill and restart."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from minimind.config.plan import plan
from minimind.config.schema import register
from minimind.runs.folder import COMPLETE, RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.utils.paths import conf_dir

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STEPS = 160
SETTINGS = [
    "model.num_experts=4", "model.num_experts_per_tok=2", "model.moe_intermediate_size=32", "model.dropout=0.1",
    "optim=muon", "trainer.micro_batch=4", f"trainer.max_steps={STEPS}", "trainer.log_every_steps=2",
    "trainer.validate_every_steps=20", "trainer.checkpoint_every_steps=1", "trainer.num_threads=1",
]  # fmt: skip
# Timing metrics, which differ between runs.
TIMES = {"elapsed_s", "train/tokens_per_second", "train/mfu", "train/data_wait_fraction", "train/checkpoint_stall_s"}


class RunProcess:
    """A small MoE run with dropout and gradient accumulation, in a new process."""

    def __init__(self, root: Path, arguments: list[str], name: str) -> None:
        self.root = root
        self.command = [sys.executable, str(REPOSITORY / "train.py"), *arguments, *SETTINGS,
                        f"run.name={name}", f"run.tag={name}"]  # fmt: skip
        self.name = name
        self.errors = root / f"{name}.stderr"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        environment = {**os.environ, "MINIMIND_ROOT": str(self.root), "PYTHONPATH": str(REPOSITORY)}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*self.command, *more], env=environment, stdout=subprocess.DEVNULL, stderr=errors,
                start_new_session=True,
            )  # fmt: skip

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=120)

    def stop(self, number: int) -> int:
        """Send a signal and wait; SIGKILL also goes to the data loader workers, as when a node fails."""
        assert self.process is not None
        (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)
        return self.end()

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def folder(self) -> RunFolder:
        found = list(self.root.glob(f"runs/{self.name}-????????"))
        return RunFolder(found[0] if found else self.root / "runs" / "none")

    def newest_step(self) -> int:
        steps = [int(f.name.removeprefix("step_")) for f in self.folder.complete_checkpoints()]
        return max(steps, default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until there is a checkpoint of that step or a later one, or the run has ended."""
        assert self.process is not None
        deadline = time.monotonic() + 120
        while self.newest_step() < step and self.process.poll() is None:
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.01)

    def metrics(self) -> list[dict[str, Any]]:
        rows = read_rows(self.folder.metrics)
        return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]

    def state(self) -> dict[str, Any]:
        folder = self.folder.checkpoints / f"step_{STEPS:08d}"
        assert (folder / COMPLETE).is_file()
        return torch.load(folder / "state.pt", weights_only=True)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths of the entries in which two states differ in any bit."""
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{path}: {one.keys() ^ other.keys()}"]
        return keys + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{path}/{key}")
        ]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for number, (a, b) in pairs for d in differences(a, b, f"{path}/{number}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [path]


def assert_same_run(victim: RunProcess, uninterrupted: RunProcess) -> None:
    """Check that all metrics, weights, moments and random states are equal bit for bit."""
    assert victim.metrics() == uninterrupted.metrics()
    ours, theirs = victim.state(), uninterrupted.state()
    for part in ("state_dict", "optimizer_states", "random_states", "training"):
        assert differences(ours[part], theirs[part]) == [], part


def folder_of(arguments: list[str], root: Path) -> Path:
    """Run folder of these settings."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", overrides=[*arguments, f"paths.root={root}"])
    return plan(composed).folder.path


@pytest.fixture(scope="session")
def uninterrupted(root: Path, small_arguments: list[str]) -> RunProcess:
    """The finished run with which stopped ones are compared."""
    run = RunProcess(root, small_arguments, "uninterrupted")
    run.start()
    assert run.end() == 0, run.stderr
    return run
