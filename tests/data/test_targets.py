"""Target bits: they survive encoding and shards, and shards without them are written as before."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minimind.data.corpus import Document, Piece, RawBlock
from minimind.data.manifest import MANIFEST, VERSION, VERSION_WITH_TARGETS
from minimind.data.shards import HEADER, ShardWriter, TokenStream, token_dtype
from minimind.data.worker import Encoder, Tokens
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

OLD_SHARDS = sorted((Path(__file__).parent.parent / "golden" / "fixtures").glob("*/shards"))
WORDS = ["the cat", " sat", "naïve ", "日本", "<|im_start|>", "\n", "", " ", "42", "🎉"]


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.train(["the cat sat on a mat, naïve 日本 42 " * 20], 290)


@dataclass
class ListCorpus:
    """Corpus of given documents; a block holds their indices."""

    items: list[Document]
    size = None

    def cache_key(self) -> Any:
        return None

    def blocks(self) -> Iterator[RawBlock]:
        yield RawBlock("", 0, [b"x"] * len(self.items), 0)

    def documents(self, block: RawBlock) -> Iterator[Document]:
        yield from self.items[block.first : block.first + len(block.records)]


def encoded(bpe: BPE, documents: list[Document]) -> Tokens:
    corpus = ListCorpus(documents)
    encoder = Encoder(corpus, bpe, token_dtype(bpe.vocab_size), all_held_out=False)
    return encoder.encode(list(corpus.blocks()))[0]


def random_documents(rng: np.random.Generator) -> list[Document]:
    """Documents with and without pieces, with several targets or none."""
    documents = []
    for _ in range(int(rng.integers(1, 12))):
        texts = ["".join(rng.choice(WORDS, rng.integers(0, 6))) for _ in range(rng.integers(1, 6))]
        pieces = [Piece(text, bool(rng.integers(2))) for text in texts]
        documents.append(Document.from_pieces(pieces, False) if rng.integers(3) else Document("".join(texts), False))
    return [document for document in documents if document.text] or [Document("a", False)]


def expected(bpe: BPE, documents: list[Document]) -> tuple[list[int], list[bool]]:
    """Ids and targets, computed one piece at a time."""
    ids: list[int] = []
    targets: list[bool] = []
    for document in documents:
        for text, is_target in document.pieces or [Piece(document.text, True)]:
            piece_ids = bpe.encode(text)
            ids += piece_ids
            targets += [is_target] * len(piece_ids)
        ids.append(bpe.end_of_text)
        targets.append(True)
    return ids, targets


@pytest.mark.parametrize("seed", range(20))
def test_targets_survive_encoding_and_shards(seed: int, bpe: BPE, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = ShardWriter(tmp_path, token_dtype(bpe.vocab_size), shard_tokens=int(rng.integers(5, 200)))
    documents: list[Document] = []
    for _ in range(4):
        batch = random_documents(rng)
        tokens = encoded(bpe, batch)
        writer.add(tokens.ids, tokens.text_bytes, tokens.lengths, tokens.targets)
        documents += batch
    writer.close(bpe.hash)
    ids, targets = expected(bpe, documents)
    stream = TokenStream(tmp_path)
    assert stream.read(0, len(stream)).tolist() == ids
    assert stream.read_targets(0, len(stream)).tolist() == targets
    assert stream.has_targets == (not all(targets))
    assert stream.num_targets == sum(targets)
    assert stream.text_bytes == sum(
        len(piece.text.encode())
        for document in documents
        for piece in document.pieces or [Piece(document.text, True)]
        if piece.is_target
    )
    for number, document in enumerate(documents):
        assert bpe.decode(stream.document(number).tolist()) == document.text
        start, stop = stream.bounds(number)
        assert stream.read_targets(start, stop).tolist() == targets[start:stop]


@pytest.mark.parametrize("seed", range(10))
def test_targets_are_aligned_with_windows(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = ShardWriter(tmp_path, token_dtype(300), shard_tokens=int(rng.integers(3, 60)))
    everything: list[bool] = []
    for length in rng.integers(1, 30, 12).tolist():
        targets = rng.random(length) < rng.choice([0.5, 1.0])  # some shards store target bits, some do not
        writer.add([7] * length, 1, targets=targets)
        everything += targets.tolist()
    writer.close("hash")
    stream = TokenStream(tmp_path)
    for length in (1, 7, 8, 9, len(stream) + 3):
        starts = rng.permutation(len(stream))
        padded = np.array(everything + [False] * length)
        found = stream.targets(starts, length)
        assert found.dtype == bool
        assert np.array_equal(found, padded[starts[:, None] + np.arange(length)])
        for start in starts.tolist():
            assert stream.read_targets(start, start + length).tolist() == everything[start : start + length]


def test_all_tokens_of_a_stream_without_target_bits_are_targets(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, token_dtype(300))
    writer.add([5, 6, 0], text_bytes=2)
    writer.close("hash")
    stream = TokenStream(tmp_path)
    assert not stream.has_targets
    assert stream.targets(np.array([0, 1, 2]), 3).tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert stream.read_targets(1, 9).tolist() == [True, True]
    assert TokenStream(tmp_path).read_targets(3, 9).tolist() == []


def test_a_shard_of_targets_only_has_the_same_bytes_as_before(bpe: BPE, tmp_path: Path) -> None:
    text = "the cat sat"
    plain = encoded(bpe, [Document(text, False)] * 3)
    assert plain.targets is None
    assert encoded(bpe, [Document.from_pieces([Piece(text, True)], False)] * 3).targets is None
    for name, targets in [("none", None), ("all", np.ones(len(plain.ids), dtype=bool))]:
        writer = ShardWriter(tmp_path / name, token_dtype(300))
        writer.add(plain.ids, plain.text_bytes, plain.lengths, targets)
        writer.close("hash")
    shard = (tmp_path / "none" / "shard_00000.bin").read_bytes()
    assert shard == (tmp_path / "all" / "shard_00000.bin").read_bytes()
    offsets = np.cumsum([0, *plain.lengths[:-1]]).astype("<u8").tobytes()
    header = HEADER.pack(b"MINIMIND", 2, 2, len(plain.ids), 3)
    assert shard == header + plain.ids.astype("<u2").tobytes() + offsets
    manifest = read_json(tmp_path / "all" / MANIFEST)
    assert manifest == read_json(tmp_path / "none" / MANIFEST)
    assert manifest["version"] == VERSION == 2
    assert set(manifest["shards"][0]) == {"name", "tokens", "documents", "text_bytes", "sha256"}
    assert "targets" not in manifest


def test_only_shards_with_context_tokens_store_target_bits(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, token_dtype(300))
    writer.add([5, 6, 0], 2)
    writer.flush()
    writer.add([5, 6, 7, 0], 1, [4], np.array([False, True, False, True]))
    writer.close("hash")
    plain, masked = ((tmp_path / f"shard_0000{n}.bin").read_bytes() for n in range(2))
    assert (plain[8], masked[8]) == (VERSION, VERSION_WITH_TARGETS)
    assert masked[HEADER.size + 8 : -8] == bytes([0b1010])
    manifest = read_json(tmp_path / MANIFEST)
    assert (manifest["version"], manifest["tokens"], manifest["targets"]) == (VERSION_WITH_TARGETS, 7, 5)
    assert [shard.get("targets") for shard in manifest["shards"]] == [None, 2]


def test_the_fingerprint_depends_on_the_targets(tmp_path: Path) -> None:
    fingerprints = set()
    for number, targets in enumerate([[True] * 3, [False, True, True], [True, False, True]]):
        writer = ShardWriter(tmp_path / str(number), token_dtype(300))
        writer.add([5, 6, 0], 2, targets=np.array(targets))
        writer.close("hash")
        fingerprints.add(TokenStream(tmp_path / str(number)).fingerprint)
    assert len(fingerprints) == 3


def test_the_number_of_targets_must_match_the_tokens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 3 targets, one per token, but there are 2"):
        ShardWriter(tmp_path, token_dtype(300)).add([5, 6, 0], 2, targets=np.array([True, False]))


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    writer = ShardWriter(tmp_path / "masked", token_dtype(300))
    writer.add([5, 6, 7, 8, 9, 10, 11, 12, 13, 0], 1, targets=np.array([False] * 5 + [True] * 5))
    writer.close("hash")
    return tmp_path / "masked"


BITS = HEADER.size + 20  # ten tokens of two bytes, then two bytes of target bits


@pytest.mark.parametrize("read", [
    lambda stream: stream.read_targets(0, 1), lambda stream: stream.targets(np.array([3]), 4),
    lambda stream: stream.read(0, 1), lambda stream: stream.verify_shard(0),
])  # fmt: skip
@pytest.mark.parametrize("offset", [BITS, BITS + 1])
def test_a_flipped_target_bit_is_detected(masked: Path, offset: int, read) -> None:
    path = masked / "shard_00000.bin"
    content = bytearray(path.read_bytes())
    content[offset] ^= 0b100
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"shard_00000\.bin must have the sha256"):
        read(TokenStream(masked))


@pytest.mark.parametrize("damage", [
    lambda content: content[:BITS] + content[BITS + 2 :],  # without the target bits
    lambda content: content[:BITS] + b"\0" + content[BITS:],
    lambda content: content[:8] + bytes([VERSION]) + content[9:],
    lambda content: content[:8] + bytes([VERSION]) + content[9:BITS] + content[BITS + 2 :],  # a plain shard instead
])  # fmt: skip
def test_target_bits_that_do_not_match_the_manifest_are_rejected(masked: Path, damage) -> None:
    path = masked / "shard_00000.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"shard_00000\.bin must match manifest\.json"):
        TokenStream(masked)


def test_shards_of_a_future_version_are_rejected(masked: Path) -> None:
    from minimind.data.manifest import _content_hash

    manifest = read_json(masked / MANIFEST)
    del manifest["sha256"]
    manifest["version"] = 4
    write_json(masked / MANIFEST, {**manifest, "sha256": _content_hash(manifest)})
    with pytest.raises(UserError, match=r"manifest\.json must have version 2 or 3, but has 4"):
        TokenStream(masked)


@pytest.mark.parametrize("shards", OLD_SHARDS, ids=lambda path: path.parent.name)
def test_old_shards_can_be_read_and_rewritten_with_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        folder = shutil.copytree(shards / split, tmp_path / "old" / split)
        stream, manifest = TokenStream(folder), read_json(folder / MANIFEST)
        assert not stream.has_targets
        assert stream.num_targets == len(stream)
        assert stream.targets(np.array([len(stream) - 2]), 4).tolist() == [[True, True, False, False]]
        writer = ShardWriter(tmp_path / "new" / split, stream.dtype)
        for shard, info in enumerate(stream.shards):
            first, last = (sum(one.documents for one in stream.shards[:n]) for n in (shard, shard + 1))
            bounds = [stream.bounds(number) for number in range(first, last)]
            tokens = stream.read(bounds[0][0], bounds[-1][1])
            writer.add(tokens, info.text_bytes, [stop - start for start, stop in bounds])
            writer.flush()
        about = {key: manifest[key] for key in ("split", "options", "versions")}
        writer.close(manifest["tokenizer"], **about)
        written = {path.name: path.read_bytes() for path in (tmp_path / "new" / split).iterdir()}
        assert written == {path.name: path.read_bytes() for path in folder.iterdir()}
