"""What the processes of a run say to each other; with one process every function is the obvious thing."""

import contextlib
import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from minimind.parallel.environment import keep_to_loopback
from minimind.utils.errors import ConfigError, RunFailed, UserError
from minimind.utils.ranks import global_rank, is_main_process, world_size

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
MEETING = timedelta(minutes=10)  # for all processes to have started
PATIENCE = timedelta(hours=24)  # for what one does while the others wait, such as preparing a large corpus
FAREWELL = timedelta(seconds=10)
_board: list[Any] = []  # the store of the tree, once joined
_answers = itertools.count()


def join(accelerator: str, file: Path | None = None) -> None:
    """Meets the other processes of the tree; what lies on the CPU travels over gloo, what on a GPU over NCCL.

    Args:
        file: where the ranks of our own tree meet; the others do so as torchrun and srun have it.

    Raises:
        UserError: some do not come.
    """
    if world_size() == 1:
        return
    import torch
    from torch import distributed

    from minimind.parallel.store import open_store

    if distributed.is_initialized():
        return
    keep_to_loopback()
    rank, size = global_rank(), world_size()
    on_gpu = accelerator in ("auto", "cuda") and torch.cuda.is_available()
    try:
        store = open_store(file, MEETING)
        store.set(f"minimind/here/{rank}", "")
        store.wait([f"minimind/here/{other}" for other in range(size)], MEETING)
    except (RuntimeError, OSError) as error:  # a store in a file has no kinds of errors
        raise UserError(
            f"All {size} processes must meet within {MEETING.seconds // 60} minutes, but did not; start them "
            f"together, with torchrun or srun, or let train.py start them (parallel=ddp trainer.devices=N). ({error})"
        ) from None
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
    _board.append(store)


def leave() -> None:
    from torch import distributed

    if world_size() > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


def from_main(action: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank; its error is everyone's, so that nobody waits for it.

    The others wait at the tree's key-value store, whose patience is longer than a collective's.
    """
    if world_size() == 1:
        return action()
    from minimind.parallel.messages import decode, encode

    key = f"minimind/answer/{next(_answers)}"
    (store,) = _board
    if is_main_process():
        try:
            answer = action()
            store.set(key, encode([answer, "", ""]))
        except Exception as error:
            store.set(key, encode([None, *_told(error)]))
            with contextlib.suppress(RuntimeError):  # the store may be rank 0's own, and go with it
                store.wait([f"{key}/read/{other}" for other in range(1, world_size())], FAREWELL)
            raise
        return answer
    store.wait([key], PATIENCE)
    answer, problem, kind = decode(store.get(key))
    store.set(f"{key}/read/{global_rank()}", b"")
    if kind == "UserError":
        raise ConfigError([problem])  # which is shown by rank 0 alone
    if kind == "RunFailed":
        raise RunFailed(problem)
    if kind:
        raise RuntimeError(f"rank 0 failed: {kind}: {problem}")
    return answer


def _told(error: Exception) -> tuple[str, str]:
    """What the others are to know of it: its text, and which kind it is."""
    known = next((kind for kind in (UserError, RunFailed) if isinstance(error, kind)), type(error))
    return str(error), known.__name__


def main_first(action: Callable[[], T]) -> T:
    """Rank 0 makes what the others then find."""
    done: list[T] = []
    from_main(lambda: done.append(action()))
    return done[0] if done else action()


def gathered(value: T) -> list[T]:
    """The value of every rank, in their order, on every rank."""
    if world_size() == 1:
        return [value]
    import torch
    from torch import distributed

    from minimind.parallel.messages import decode, encode

    message = encode(value)
    message = message.ljust(largest_over_ranks(len(message)))  # JSON may end in spaces
    mine = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    messages = [torch.empty_like(mine) for _ in range(world_size())]
    distributed.all_gather(messages, mine)
    return [decode(bytes(message.numpy())) for message in messages]


def broadcast(value: T, source: int) -> T:
    """The value of the rank `source`, on every rank."""
    return cast(T, gathered(value if global_rank() == source else None)[source])


def sum_over_ranks(value: "Tensor") -> "Tensor":
    if world_size() == 1:
        return value
    from torch import distributed

    total = value.clone()
    distributed.all_reduce(total)
    return total


def sums_over_ranks(values: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Each of them summed over the ranks in one collective, in float64: counts stay exact."""
    if world_size() == 1 or not values:
        return values
    import torch

    total = sum_over_ranks(torch.cat([value.double().flatten() for value in values.values()]))
    pieces = total.split([value.numel() for value in values.values()])
    return {
        name: piece.view_as(value).to(value.dtype) for (name, value), piece in zip(values.items(), pieces, strict=True)
    }


def largest_over_ranks(number: int) -> int:
    """Travels between the processors only: no GPU waits for it."""
    if world_size() == 1:
        return number
    import torch
    from torch import distributed

    largest = torch.tensor(number)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return int(largest)


def wait_for_all() -> None:
    largest_over_ranks(0)
