"""Killed, corrupted, out of room: the result is the one of a run that nobody stopped, bit for bit."""

import random
import resource
import signal
import time
from pathlib import Path

import pytest

from minimind.utils.files import read_json

from .conftest import STEPS, Victim, same_run


def flip_a_byte(checkpoint: Path) -> None:
    data = bytearray((checkpoint / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / "state.pt").write_bytes(data)


def cut_off(checkpoint: Path) -> None:
    data = (checkpoint / "state.pt").read_bytes()
    (checkpoint / "state.pt").write_bytes(data[: len(data) // 2])


def no_marker(checkpoint: Path) -> None:
    (checkpoint / "COMPLETE").unlink()


def nothing(checkpoint: Path) -> None:
    """Only the kill itself."""


def stop_somewhere(victim: Victim, number: int, chance: random.Random, reach: int, *more: str) -> int:
    """Starts, and stops at a random moment after some progress; returns the step of the newest checkpoint."""
    victim.start(*more)
    victim.wait_for_step(reach)
    time.sleep(chance.uniform(0, 0.15))
    code = victim.stop(number)
    assert code == (75 if number == signal.SIGTERM else -number), victim.said
    return victim.newest_step()


def test_stopped_and_damaged_it_ends_like_a_run_that_was_not(
    whole: Victim, root: Path, small_arguments: list[str]
) -> None:
    """Three kills and a SIGTERM; what they left is damaged further; workers or none must not matter either."""
    chance = random.Random(time.time_ns())
    victim = Victim(root, small_arguments, "stopped")
    stops = [(signal.SIGKILL, nothing, "0"), (signal.SIGKILL, flip_a_byte, "2"), (signal.SIGTERM, cut_off, "0"),
             (signal.SIGKILL, no_marker, "2")]  # fmt: skip
    step = 0
    damaged = None
    for number, damage, workers in stops:
        step = stop_somewhere(victim, number, chance, step + 15, f"data.num_workers={workers}")
        assert step < STEPS, "too slow to stop it: make the run longer"
        if damaged is not None:
            assert f"{damaged} cannot be used" in victim.said
        if number == signal.SIGTERM:
            assert read_json(victim.folder.path / "status.json")["state"] == "preempted"
        damaged = None if damage is nothing else victim.folder.checkpoints / f"step_{step:08d}"
        damage(victim.folder.checkpoints / f"step_{step:08d}")
    victim.start()
    assert victim.end() == 0, victim.said
    assert f"{damaged} cannot be used" in victim.said
    assert "Resuming" in victim.said
    same_run(victim, whole)
    assert not list(victim.folder.path.rglob(".*.tmp"))
    names = [path.name for path in victim.folder.all_checkpoints()]
    assert names[-1] == f"step_{STEPS:08d}"
    assert 2 <= len(names) <= 3  # the newest two, and the best if it is another


def test_a_full_disk_costs_checkpoints_and_nothing_else(whole: Victim, root: Path, small_arguments: list[str]) -> None:
    """The system refuses files above a limit for a while, set from outside on the living process."""
    victim = Victim(root, small_arguments, "full")
    victim.start()
    victim.wait_for_step(10)
    assert victim.process is not None
    unlimited = resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    deadline = time.monotonic() + 60
    while "could not be saved" not in victim.said and time.monotonic() < deadline:
        time.sleep(0.01)
    kept = victim.newest_step()
    assert kept >= 10
    resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert victim.end() == 0, victim.said
    assert "File too large" in victim.said
    assert "Training continues" in victim.said
    assert kept < STEPS
    same_run(victim, whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(
    whole: Victim, root: Path, small_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(time.time_ns())
    victim = Victim(root, small_arguments, "twenty")
    step = while_writing = 0
    for kill in range(20):
        step = stop_somewhere(victim, signal.SIGKILL, chance, step + 3, f"data.num_workers={kill % 2 * 2}")
        assert step < STEPS
        while_writing += bool(list(victim.folder.checkpoints.glob(".step_*.tmp")))
    victim.start()
    assert victim.end() == 0, victim.said
    same_run(victim, whole)
    with capsys.disabled():
        print(f"\n20 kills, {while_writing} of them while a checkpoint was being written; last killed near step {step}")
