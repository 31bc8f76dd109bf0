"""Every token a target once an epoch; the same global batches for any ranks and workers; a seek is exact."""

from pathlib import Path

import numpy as np
import pytest
import torch

from minimind.data.loader import TrainLoader, ValidationLoader
from minimind.data.packing import IGNORED, Batch, WindowPacking, validation_packing
from minimind.data.shards import ShardWriter, TokenStream, token_dtype


@pytest.fixture
def packing(tmp_path: Path) -> WindowPacking:
    """The tokens 0 … 250 in two shards: a token's value is its place."""
    writer = ShardWriter(tmp_path, token_dtype(300), shard_tokens=200)
    for start in range(0, 251, 10):
        writer.add(list(range(start, min(start + 10, 251))), text_bytes=1)
    writer.close("hash")
    return WindowPacking(TokenStream(tmp_path), sequence_length=8)


def loader(packing: WindowPacking, **options: int) -> TrainLoader:
    defaults = {"seed": 3, "batch_rows": 8, "micro_batch": 2, "num_batches": 40}
    return TrainLoader(packing, **{**defaults, **options})


def test_every_token_but_the_first_is_a_target_once(packing: WindowPacking) -> None:
    batch = packing.rows(np.arange(packing.num_windows))
    targets = batch.labels[batch.labels != IGNORED]
    assert targets.tolist() == list(range(1, 251))
    real = batch.labels != IGNORED
    assert torch.equal(batch.input_ids[real] + 1, batch.labels[real])


def test_an_epoch_of_training_shows_every_target_once(packing: WindowPacking) -> None:
    assert packing.num_windows == 32
    batches = list(loader(packing, num_batches=16))
    targets = torch.cat([batch.labels.flatten() for batch in batches])
    assert sorted(targets[targets != IGNORED].tolist()) == list(range(1, 251))


def global_steps(loaders: list[TrainLoader], steps: int) -> list[list[list[int]]]:
    """The rows of each optimizer step, sorted: over ranks and micro-batches."""
    iterators = [iter(one) for one in loaders]
    accumulation = loaders[0].accumulation
    return [
        sorted(row for it in iterators for _ in range(accumulation) for row in next(it).input_ids.tolist())
        for _ in range(steps)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_ranks_and_micro_batches_share_one_global_batch(
    packing: WindowPacking, world_size: int, micro_batch: int
) -> None:
    loaders = [
        loader(packing, rank=rank, world_size=world_size, micro_batch=micro_batch, num_batches=100)
        for rank in range(world_size)
    ]
    assert global_steps(loaders, 9) == global_steps([loader(packing, micro_batch=8)], 9)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(packing: WindowPacking, num_workers: int) -> None:
    plain = list(loader(packing))
    read_ahead = list(loader(packing, num_workers=num_workers))
    assert all(equal(a, b) for a, b in zip(plain, read_ahead, strict=True))


@pytest.mark.parametrize(("world_size", "step"), [(1, 0), (1, 3), (2, 3), (1, 7)])
def test_a_seek_goes_on_with_exactly_the_next_window(packing: WindowPacking, world_size: int, step: int) -> None:
    whole = global_steps([loader(packing, num_batches=100)], 9)
    resumed = [loader(packing, rank=rank, world_size=world_size, num_batches=100) for rank in range(world_size)]
    for one in resumed:
        one.load_state_dict({"step": step})
    assert global_steps(resumed, 9 - step) == whole[step:]


def test_state_is_one_integer(packing: WindowPacking) -> None:
    one = loader(packing)
    batches = iter(one)
    for _ in range(4):
        next(batches)
    assert one.state_dict() == {"step": 1}
    assert len(one) == 40


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_shows_every_target_once_with_half_a_window_before_it(
    packing: WindowPacking, world_size: int
) -> None:
    overlapping = validation_packing(packing.stream, 8)
    loaders = [ValidationLoader(overlapping, rows=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    targets = torch.cat([batch.labels.flatten() for one in loaders for batch in one])
    assert sorted(targets[targets != IGNORED].tolist()) == list(range(1, 251))
    assert all(len(list(one)) == len(one) for one in loaders)
    for one in loaders:
        for batch in one:
            row, place = torch.where((batch.labels != IGNORED) & (batch.labels > 8))
            assert len(row) == 0 or place.min() >= 4


def test_a_text_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, token_dtype(300))
    writer.add([4, 5, 6, 0], text_bytes=3)
    writer.close("hash")
    for packing in (WindowPacking(TokenStream(tmp_path), 8), validation_packing(TokenStream(tmp_path), 8)):
        assert packing.num_windows == 1
        labels = packing.rows(np.arange(1)).labels
        assert labels[labels != IGNORED].tolist() == [5, 6, 0]


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.input_ids, b.input_ids) and torch.equal(a.labels, b.labels)
