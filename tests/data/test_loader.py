"""Global batches are the same for any number of ranks, micro-batches and workers, and after resuming at any step."""

from pathlib import Path

import pytest
import torch
from streams import real_targets, same, write_stream

from minimind.data.config import TextConfig
from minimind.data.loader import SequentialLoader, TrainLoader
from minimind.data.mixture import Mixture, Source
from minimind.data.packing import DocumentPacking, WindowPacking, validation_packing
from minimind.model.config import IGNORED

KINDS = ["stream", "document_mask", "pad", "mixture"]


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mixture]:
    """A stream of 251 tokens in documents of 1 to 16 tokens and several shards; the mixture has two more sources."""
    lengths = [1 + (i * 7) % 16 for i in range(30)] + [6]
    folder = tmp_path_factory.mktemp("streams")
    streams = [
        write_stream(folder / str(number), lengths[: 31 - 8 * number], first=1000 * number, shard_tokens=90)
        for number in range(3)
    ]
    window = WindowPacking(streams[0], 8)
    alone = {"stream": window, "document_mask": WindowPacking(streams[0], 8, document_mask=True),
             "pad": DocumentPacking(streams[0], 8)}  # fmt: skip
    mixtures = {name: Mixture([Source(name, 1.0, packing)], seed=3) for name, packing in alone.items()}
    sources = [Source(f"s{i}", weight, WindowPacking(streams[i], 8)) for i, weight in enumerate((3.0, 1.0, 0.6))]
    return {**mixtures, "mixture": Mixture(sources, seed=3)}


def loader(mixture: Mixture, **options: int) -> TrainLoader:
    return TrainLoader(mixture, **{"batch_examples": 8, "micro_batch": 2, "num_steps": 100, **options})


def global_steps(loaders: list[TrainLoader], steps: int) -> list[list[list[list[int]]]]:
    """For each optimizer step, the sorted examples (inputs, labels, …) of all ranks and micro-batches."""
    iterators = [iter(each) for each in loaders]
    found = []
    for _ in range(steps):
        batches = [micro_batch.widen() for it in iterators for micro_batch in next(it)]
        examples = [torch.cat([part for part in batch if part is not None], dim=1).tolist() for batch in batches]
        found.append(sorted(example for batch in examples for example in batch))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_ranks_and_micro_batches_share_one_global_batch(
    kind: str, mixtures: dict[str, Mixture], world_size: int, micro_batch: int
) -> None:
    loaders = [
        loader(mixtures[kind], rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)
    ]
    assert global_steps(loaders, 9) == global_steps([loader(mixtures[kind], micro_batch=8)], 9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("world_size", "step"), [(1, 0), (1, 3), (2, 3), (4, 7)])
def test_a_resumed_loader_continues_with_exactly_the_next_example(
    kind: str, mixtures: dict[str, Mixture], world_size: int, step: int
) -> None:
    whole = global_steps([loader(mixtures[kind])], 9)
    resumed = [loader(mixtures[kind], rank=rank, world_size=world_size) for rank in range(world_size)]
    for rank_loader in resumed:
        rank_loader.load_state_dict({"step": step})
    assert global_steps(resumed, 9 - step) == whole[step:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(mixtures: dict[str, Mixture], num_workers: int) -> None:
    for kind in ("document_mask", "mixture"):  # the most tensors per batch, and the most code paths
        for rank in range(2):
            without = list(loader(mixtures[kind], num_steps=20, rank=rank, world_size=2))
            workers = list(loader(mixtures[kind], num_steps=20, rank=rank, world_size=2, num_workers=num_workers))
            assert len(without) == len(workers) == 20
            assert all(same(a, b) for steps in zip(without, workers, strict=True) for a, b in zip(*steps, strict=True))


def test_state_is_one_integer(mixtures: dict[str, Mixture]) -> None:
    train_loader = loader(mixtures["mixture"])
    assert len(next(iter(train_loader))) == 4
    assert train_loader.state_dict() == {"step": 1}
    assert len(train_loader) == 100


def test_steps_are_the_same_in_any_order(mixtures: dict[str, Mixture]) -> None:
    first, second = loader(mixtures["mixture"]), loader(mixtures["mixture"])
    in_order = [first.read(step) for step in range(400)]
    for step in (399, 3, 200, 201, 0):
        assert all(same(a, b) for a, b in zip(second.read(step), in_order[step], strict=True))


def test_tokens_are_transferred_in_the_dtype_of_the_shards(mixtures: dict[str, Mixture]) -> None:
    sequences = loader(mixtures["document_mask"]).read(0)[0]
    assert sequences.tokens.dtype is torch.uint16
    assert sequences.begins is not None
    assert sequences.begins.dtype is torch.bool
    assert {part.dtype for part in sequences.widen() if part is not None} == {torch.int64}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("document_mask", [False, True])
def test_validation_has_every_target_once_with_half_a_window_of_context(
    mixtures: dict[str, Mixture], world_size: int, document_mask: bool
) -> None:
    stream = mixtures["stream"].sources[0].examples.stream
    cfg = TextConfig(files=["a"], sequence_length=8, document_mask=document_mask)
    overlapping = validation_packing(stream, cfg)
    assert overlapping.document_mask == document_mask
    loaders = [SequentialLoader(overlapping, batch=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    targets = [target for each in loaders for sequences in each for target in real_targets(sequences)]
    assert sorted(targets) == list(range(1, len(stream)))
    assert all(len(list(each)) == len(each) for each in loaders)
    for each in loaders:
        for sequences in each:
            labels = sequences.widen().labels
            _, positions = torch.where((labels != IGNORED) & (labels > 8))
            assert len(positions) == 0 or positions.min() >= 4


def test_widening_keeps_token_ids_above_int16(tmp_path: Path) -> None:
    stream = write_stream(tmp_path, [20], first=65_500)
    assert loader(Mixture([Source("a", 1.0, WindowPacking(stream, 19))], 1)).read(0)[0].tokens.dtype is torch.uint16
    sequences = WindowPacking(stream, 19).read(torch.zeros(1, dtype=torch.int64).numpy())
    assert sequences.widen().input_ids.tolist() == [list(range(65_500, 65_519))]
    large = WindowPacking(write_stream(tmp_path / "large", [20], first=65_530), 19)
    assert large.read(torch.zeros(1, dtype=torch.int64).numpy()).widen().labels.max().item() == 65_549
