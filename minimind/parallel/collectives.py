"""Communication between the processes of a run; with one process, each function is trivial."""

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
JOIN_TIMEOUT = timedelta(minutes=10)  # for all processes to start
ACTION_TIMEOUT = timedelta(hours=24)  # for what rank 0 does while the others wait, such as preparing a large corpus
FAILURE_TIMEOUT = timedelta(seconds=10)  # for the others to read rank 0's error
_stores: list[Any] = []  # the key-value store, once joined
_answers = itertools.count()


def join(accelerator: str, file: Path | None = None) -> None:
    """Join the other processes of the run: gloo for tensors on the CPU, NCCL for tensors on a GPU.

    Args:
        file: store for ranks started by train.py; None: the rendezvous address of torchrun or srun.

    Raises:
        UserError: not all processes have joined in time.
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
        store = open_store(file, JOIN_TIMEOUT)
        store.set(f"minimind/here/{rank}", "")
        store.wait([f"minimind/here/{other}" for other in range(size)], JOIN_TIMEOUT)
    except (RuntimeError, OSError) as error:  # FileStore raises plain RuntimeErrors
        raise UserError(
            f"All {size} processes must start within {JOIN_TIMEOUT.seconds // 60} minutes, but did not; start them "
            f"together, with torchrun or srun, or let train.py start them (parallel=ddp trainer.devices=N). ({error})"
        ) from None
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
    _stores.append(store)


def leave() -> None:
    from torch import distributed

    if world_size() > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


def from_main(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only and return its result, or raise its error, on every rank.

    The other ranks wait on the key-value store, which allows for a longer timeout than a collective.
    """
    if world_size() == 1:
        return action()
    from minimind.parallel.messages import decode, encode

    key = f"minimind/answer/{next(_answers)}"
    (store,) = _stores
    if is_main_process():
        try:
            answer = action()
            store.set(key, encode([answer, "", ""]))
        except Exception as error:
            store.set(key, encode([None, *_describe(error)]))
            with contextlib.suppress(RuntimeError):  # rank 0 may host the store, which ends with it
                store.wait([f"{key}/read/{other}" for other in range(1, world_size())], FAILURE_TIMEOUT)
            raise
        return answer
    store.wait([key], ACTION_TIMEOUT)
    answer, problem, kind = decode(store.get(key))
    store.set(f"{key}/read/{global_rank()}", b"")
    if kind == "UserError":
        raise ConfigError([problem])  # reported by rank 0 only
    if kind == "RunFailed":
        raise RunFailed(problem)
    if kind:
        raise RuntimeError(f"rank 0 failed: {kind}: {problem}")
    return answer


def _describe(error: Exception) -> tuple[str, str]:
    """Message and class name of an error, for the other ranks."""
    known = next((kind for kind in (UserError, RunFailed) if isinstance(error, kind)), type(error))
    return str(error), known.__name__


def main_first(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 first, then on the other ranks, which find what it made."""
    done: list[T] = []
    from_main(lambda: done.append(action()))
    return done[0] if done else action()


def all_gather(value: T) -> list[T]:
    """The values of all ranks, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    import torch
    from torch import distributed

    from minimind.parallel.messages import decode, encode

    message = encode(value)
    message = message.ljust(max_over_ranks(len(message)))  # JSON may end in spaces
    buffer = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    messages = [torch.empty_like(buffer) for _ in range(world_size())]
    distributed.all_gather(messages, buffer)
    return [decode(bytes(message.numpy())) for message in messages]


def broadcast(value: T, source: int) -> T:
    """The value of rank `source`, on every rank."""
    return cast(T, all_gather(value if global_rank() == source else None)[source])


def sum_over_ranks(value: "Tensor") -> "Tensor":
    if world_size() == 1:
        return value
    from torch import distributed

    total = value.clone()
    distributed.all_reduce(total)
    return total


def sums_over_ranks(values: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Sum each value over the ranks in a single collective, in float64 to keep counts exact."""
    if world_size() == 1 or not values:
        return values
    import torch

    total = sum_over_ranks(torch.cat([value.double().flatten() for value in values.values()]))
    parts = total.split([value.numel() for value in values.values()])
    return {
        name: part.view_as(value).to(value.dtype) for (name, value), part in zip(values.items(), parts, strict=True)
    }


def max_over_ranks(number: int) -> int:
    """Maximum over the ranks, computed over gloo so that no GPU waits."""
    if world_size() == 1:
        return number
    import torch
    from torch import distributed

    maximum = torch.tensor(number)
    distributed.all_reduce(maximum, op=distributed.ReduceOp.MAX)
    return int(maximum)


def wait_for_all() -> None:
    max_over_ranks(0)
