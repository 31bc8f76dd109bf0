"""Every token is a target exactly once; with document masks, a packed document is treated as if it were alone."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import real_targets, write_stream

from minimind.data.config import Packing, TextConfig
from minimind.data.examples import positions
from minimind.data.packing import DocumentPacking, WindowPacking, training_packing, validation_packing
from minimind.evaluation.text_loss import logits_of
from minimind.model.config import IGNORED, AttentionBackend, ModelConfig, Position
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import next_token_loss
from minimind.utils.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(lengths=LENGTHS, window=st.integers(1, 50), stride=st.integers(1, 50), shard=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_every_token_but_the_first_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], window: int, stride: int, shard: int
) -> None:
    stream = write_stream(tmp_path_factory.mktemp("s"), lengths, shard_tokens=shard)
    packing = WindowPacking(stream, window, min(stride, window), document_mask=True)
    sequences = packing.read(np.arange(packing.num_examples))
    assert real_targets(sequences) == list(range(1, len(stream)))
    batch = sequences.widen()
    real = batch.labels != IGNORED
    assert torch.equal(batch.input_ids[real] + 1, batch.labels[real])
    ends = [start - 1 for start in accumulate(lengths)][:-1]  # the <|endoftext|> before each document but the first
    begins = sequences.begins
    assert begins is not None
    assert set(batch.input_ids[begins & real].tolist()) == {end for end in ends if end < len(stream) - 1}


@given(lengths=LENGTHS, window=st.integers(1, 50), shard=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_a_padded_sequence_is_a_document(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], window: int, shard: int
) -> None:
    stream = write_stream(tmp_path_factory.mktemp("s"), lengths, shard_tokens=shard)
    packing = DocumentPacking(stream, window)
    assert packing.num_examples == len(lengths)
    batch = packing.read(np.arange(len(lengths))).widen()
    start = 0
    for ids, labels, length in zip(batch.input_ids.tolist(), batch.labels.tolist(), lengths, strict=True):
        tokens = list(range(start, start + min(length, window)))
        assert labels == tokens + [IGNORED] * (window - len(tokens))
        assert ids[: len(tokens)] == [stream.end_of_text, *tokens[:-1]]
        start += length


def test_a_text_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    stream = write_stream(tmp_path, [4], first=4)
    cfg = TextConfig(files=["a"], sequence_length=8)
    for packing in (training_packing(stream, cfg), validation_packing(stream, cfg)):
        assert packing.num_examples == 1
        assert real_targets(packing.read(np.arange(1))) == [5, 6, 7]


@pytest.mark.parametrize("lengths", [[], [1]])
def test_without_a_target_there_is_no_window(lengths: list[int], tmp_path: Path) -> None:
    stream = write_stream(tmp_path, lengths)
    assert validation_packing(stream, TextConfig(files=["a"], sequence_length=8)).num_examples == 0


def test_positions_restart_with_each_document() -> None:
    begins = torch.tensor([[0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0]]).bool()
    assert positions(begins).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]]


def test_padding_and_document_masks_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"`data\.document_mask` must be false with data\.packing=pad"):
        TextConfig(files=["a"], packing=Packing.pad, document_mask=True)


@pytest.mark.parametrize("position", list(Position))
@pytest.mark.parametrize("backend", list(AttentionBackend))
def test_a_document_in_a_window_gets_the_logits_it_gets_alone(
    position: Position, backend: AttentionBackend, tmp_path: Path
) -> None:
    """Logits of each document but the first are the same packed in a window and alone in a padded sequence."""
    torch.manual_seed(0)
    model = MiniMind(ModelConfig(
        vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, position=position, attention_backend=backend,
    ))  # fmt: skip
    end = 70
    documents = [[3, 9, 4, end], [5, 6, 7, 8, 1, end], [11, 2, 12, end], [end], [21, 22, 23, 24, end]]
    stream = write_documents(tmp_path, documents)
    packed = WindowPacking(stream, 19, document_mask=True).read(np.arange(1)).widen()
    padded = DocumentPacking(stream, 19).read(np.arange(len(documents))).widen()
    with torch.no_grad():
        in_window, alone = logits_of(model, packed).logits[0], logits_of(model, padded).logits
    start = 3  # the <|endoftext|> of the first document, which as an input begins the second
    for number, document in enumerate(documents[1:], start=1):
        size = len(document)
        assert packed.labels[0, start : start + size].tolist() == document
        torch.testing.assert_close(in_window[start : start + size], alone[number, :size], rtol=1e-5, atol=1e-6)
        start += size
    all_but_first = DocumentPacking(stream, 19).read(np.arange(1, 5)).widen()
    both = [next_token_loss(model, batch) for batch in (packed, all_but_first)]
    assert both[0].num_tokens == both[1].num_tokens + 3  # the first document, without the first token of the stream
    unmasked = model(packed.input_ids).logits[0]
    assert not torch.allclose(unmasked[4:], in_window[4:], atol=1e-4)


def write_documents(folder: Path, documents: list[list[int]]):
    from minimind.data.shards import ShardWriter, TokenStream, token_dtype

    writer = ShardWriter(folder, token_dtype(80))
    for document in documents:
        writer.add(document, text_bytes=1)
    writer.close("hash")
    return TokenStream(folder)
