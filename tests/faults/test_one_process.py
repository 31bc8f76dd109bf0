"""After kills, corruption or a full disk, the result equals that of an uninterrupted run bit for bit."""

import random
import resource
import signal
import time
from pathlib import Path

import pytest

from minimind.utils.files import read_json

from .conftest import STEPS, RunProcess, assert_same_run


def flip_a_byte(checkpoint: Path) -> None:
    data = bytearray((checkpoint / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / "state.pt").write_bytes(data)


def truncate(checkpoint: Path) -> None:
    data = (checkpoint / "state.pt").read_bytes()
    (checkpoint / "state.pt").write_bytes(data[: len(data) // 2])


def remove_marker(checkpoint: Path) -> None:
    (checkpoint / "COMPLETE").unlink()


def no_damage(checkpoint: Path) -> None:
    """Only the kill itself."""


def stop_randomly(victim: RunProcess, number: int, rng: random.Random, reach: int, *more: str) -> int:
    """Start the run and stop it at a random time after step `reach`; returns the step of the newest checkpoint."""
    victim.start(*more)
    victim.wait_for_step(reach)
    time.sleep(rng.uniform(0, 0.15))
    code = victim.stop(number)
    assert code == (75 if number == signal.SIGTERM else -number), victim.stderr
    return victim.newest_step()


def test_stopped_and_damaged_run_equals_an_uninterrupted_one(
    uninterrupted: RunProcess, root: Path, small_arguments: list[str]
) -> None:
    """Three kills and a SIGTERM, each followed by damage, with and without data loader workers."""
    rng = random.Random(time.time_ns())
    victim = RunProcess(root, small_arguments, "stopped")
    stops = [(signal.SIGKILL, no_damage, "0"), (signal.SIGKILL, flip_a_byte, "2"), (signal.SIGTERM, truncate, "0"),
             (signal.SIGKILL, remove_marker, "2")]  # fmt: skip
    step = 0
    damaged = None
    for number, damage, workers in stops:
        step = stop_randomly(victim, number, rng, step + 15, f"data.num_workers={workers}")
        assert step < STEPS, "the run finished before it was stopped: make it longer"
        if damaged is not None:
            assert f"{damaged} cannot be used" in victim.stderr
        if number == signal.SIGTERM:
            assert read_json(victim.folder.path / "status.json")["state"] == "preempted"
        damaged = None if damage is no_damage else victim.folder.checkpoints / f"step_{step:08d}"
        damage(victim.folder.checkpoints / f"step_{step:08d}")
    victim.start()
    assert victim.end() == 0, victim.stderr
    assert f"{damaged} cannot be used" in victim.stderr
    assert "Resuming" in victim.stderr
    assert_same_run(victim, uninterrupted)
    assert not list(victim.folder.path.rglob(".*.tmp"))
    names = [path.name for path in victim.folder.all_checkpoints()]
    assert names[-1] == f"step_{STEPS:08d}"
    assert 2 <= len(names) <= 3  # the newest two, and the best if it is another one


def test_full_disk_only_costs_checkpoints(uninterrupted: RunProcess, root: Path, small_arguments: list[str]) -> None:
    """A temporary file size limit, set on the running process from outside."""
    victim = RunProcess(root, small_arguments, "full")
    victim.start()
    victim.wait_for_step(10)
    assert victim.process is not None
    unlimited = resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    deadline = time.monotonic() + 60
    while "could not be saved" not in victim.stderr and time.monotonic() < deadline:
        time.sleep(0.01)
    kept = victim.newest_step()
    assert kept >= 10
    resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert victim.end() == 0, victim.stderr
    assert "File too large" in victim.stderr
    assert "Training continues" in victim.stderr
    assert kept < STEPS
    assert_same_run(victim, uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(
    uninterrupted: RunProcess, root: Path, small_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(time.time_ns())
    victim = RunProcess(root, small_arguments, "twenty")
    step = while_writing = 0
    for kill in range(20):
        step = stop_randomly(victim, signal.SIGKILL, rng, step + 3, f"data.num_workers={kill % 2 * 2}")
        assert step < STEPS
        while_writing += bool(list(victim.folder.checkpoints.glob(".step_*.tmp")))
    victim.start()
    assert victim.end() == 0, victim.stderr
    assert_same_run(victim, uninterrupted)
    with capsys.disabled():
        print(f"\n20 kills, {while_writing} of them while a checkpoint was being written; last killed near step {step}")
