"""Collectives between forked ranks over gloo."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minimind.parallel.collectives import all_gather, from_main, main_first, max_over_ranks, sums_over_ranks
from minimind.runs.folder import FolderGone
from minimind.utils.errors import ConfigError, RunFailed, UserError
from minimind.utils.ranks import global_rank


def communicate(folder: Path) -> dict[str, Any]:
    rank = global_rank()

    def write_or_find() -> str:
        path = folder / "made"
        if rank == 0:
            path.write_text("by rank 0")
        return path.read_text()

    def refuse() -> None:
        raise UserError("no such corpus")

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    def give_up() -> None:
        raise FolderGone("where is it?")

    results: dict[str, Any] = {"from_main": from_main(lambda: rank), "main_first": main_first(write_or_find)}
    for action in (refuse, fail, give_up):
        try:
            from_main(action)
        except Exception as error:
            results[action.__name__] = (type(error), str(error))
    results["gathered"] = all_gather({"rank": rank})
    results["largest"] = max_over_ranks(5 - rank)
    sums = sums_over_ranks({"count": torch.tensor(2**40 + rank), "load": torch.full((2, 3), float(rank))})
    results["sums"] = {name: value.tolist() for name, value in sums.items()}
    return results


def test_ranks_agree(run_ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    first, *others = run_ranks(3, communicate, tmp_path, tmp_path)
    assert first.pop("refuse") == (UserError, "no such corpus")
    assert first.pop("fail") == (ZeroDivisionError, "a bug")
    assert first.pop("give_up") == (FolderGone, "where is it?")
    for other in others:
        assert other.pop("refuse") == (ConfigError, "no such corpus")  # reported by rank 0 only
        assert other.pop("fail") == (RuntimeError, "rank 0 failed: ZeroDivisionError: a bug")
        assert other.pop("give_up") == (RunFailed, "where is it?")
        assert other == first
    assert first == {
        "from_main": 0, "main_first": "by rank 0", "gathered": [{"rank": rank} for rank in range(3)], "largest": 5,
        "sums": {"count": 3 * 2**40 + 3, "load": [[3.0] * 3] * 2},
    }  # fmt: skip


INTRUDER = """
import sys
from torch.distributed import TCPStore
TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False).set("start0/minimind/answer/0", bytes.fromhex(sys.argv[2]))
"""


class Command:
    """Runs a shell command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def receive_intruders_message(folder: Path) -> str:
    """Rank 0 is slow to answer, and another process answers in its place."""
    received = folder / "received"

    def answer_late() -> None:
        while not received.exists():
            time.sleep(0.01)

    if global_rank() == 1:
        payload = pickle.dumps(([Command(f"touch {folder / 'ran'}")], "", False))
        subprocess.run([sys.executable, "-c", INTRUDER, os.environ["MASTER_PORT"], payload.hex()], check=True)
    try:
        from_main(answer_late)
        return ""
    except ValueError as error:
        return str(error)
    finally:
        received.touch()


def test_foreign_pickle_in_the_store_is_an_error_and_is_not_run(
    run_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    first, other = run_ranks(2, receive_intruders_message, tmp_path, tmp_path)
    assert not (tmp_path / "ran").exists()
    assert first == ""
    assert "Another process sent an invalid message" in other


def test_one_process_needs_no_process_group() -> None:
    tensor = torch.ones(2)
    assert from_main(lambda: 7) == main_first(lambda: 7) == max_over_ranks(7) == 7
    assert all_gather(7) == [7]
    assert sums_over_ranks({"a": tensor})["a"] is tensor
    with pytest.raises(UserError):
        from_main(refuse_alone)


def refuse_alone() -> None:
    raise UserError("no")
