"""Every example of a step goes to one data-parallel rank, whatever else the ranks share."""

import pytest

from minimind.parallel.layout import Layout


@pytest.mark.parametrize(("world_size", "tensor", "pipeline"), [(1, 1, 1), (4, 1, 1), (8, 2, 1), (8, 1, 4), (12, 2, 3)])
def test_each_rank_has_a_place_of_its_own(world_size: int, tensor: int, pipeline: int) -> None:
    layouts = [Layout(rank, world_size, 24, 2, tensor, pipeline) for rank in range(world_size)]
    places = {(one.data_rank, one.pipeline_rank, one.tensor_rank) for one in layouts}
    size = world_size // (tensor * pipeline)
    assert places == {(d, p, t) for d in range(size) for p in range(pipeline) for t in range(tensor)}
    for one in layouts:
        assert one.data_size == size
        assert one.accumulation * one.micro_batch == one.examples_per_rank == 24 // size


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut into groups of 3 × 1"):
        Layout(0, 4, 24, 1, tensor_size=3)
    with pytest.raises(ValueError, match="24 examples cannot be shared out in micro-batches of 5 to 2 ranks"):
        Layout(0, 2, 24, 5)
