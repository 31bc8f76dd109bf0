"""Each example of a step goes to exactly one data-parallel rank."""

import pytest

from minimind.parallel.layout import Layout


@pytest.mark.parametrize(("world_size", "tensor", "pipeline"), [(1, 1, 1), (4, 1, 1), (8, 2, 1), (8, 1, 4), (12, 2, 3)])
def test_each_rank_has_a_unique_position(world_size: int, tensor: int, pipeline: int) -> None:
    layouts = [Layout(rank, world_size, 24, 2, tensor, pipeline) for rank in range(world_size)]
    positions = {(one.data_rank, one.pipeline_rank, one.tensor_rank) for one in layouts}
    size = world_size // (tensor * pipeline)
    assert positions == {(d, p, t) for d in range(size) for p in range(pipeline) for t in range(tensor)}
    for one in layouts:
        assert one.data_size == size
        assert one.accumulation * one.micro_batch == one.examples_per_rank == 24 // size


def test_indivisible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be divided into groups of 3 × 1"):
        Layout(0, 4, 24, 1, tensor_size=3)
    with pytest.raises(ValueError, match="24 examples cannot be divided into micro-batches of 5 on 2 ranks"):
        Layout(0, 2, 24, 5)
