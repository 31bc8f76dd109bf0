"""Runs a function in several forked ranks connected by gloo."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WAIT_S = 90


def run_ranks(world_size: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Results of `function(*arguments)` on each rank. The test fails if a rank fails, or hangs and is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_rank, args=(rank, world_size, port, folder, function, arguments), daemon=True)
        for rank in range(world_size)
    ]
    try:
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(WAIT_S)
        assert [process.exitcode for process in ranks] == [0] * world_size
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"result{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, folder: Path, function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GROUP_RANK="0",
    )  # fmt: skip
    from minimind.parallel.collectives import join, leave

    join("cpu")
    torch.save(function(*arguments), folder / f"result{rank}.pt")
    leave()


@pytest.fixture(scope="session", name="run_ranks")
def _run_ranks() -> Callable[..., list[Any]]:
    return run_ranks
