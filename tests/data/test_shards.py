"""Shards return what was written to them, and damaged shards are rejected."""

import os
from pathlib import Path

import numpy as np
import pytest

from minimind.data.manifest import MANIFEST
from minimind.data.shards import HEADER, ShardWriter, TokenStream, token_dtype
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json

DOCUMENTS = [[5, 6, 0], [7, 0], [8, 9, 10, 11, 0], [0], [12, 0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = ShardWriter(tmp_path, token_dtype(300), shard_tokens=4)
    for document in DOCUMENTS:
        writer.add(document, text_bytes=len(document) - 1)
    writer.close("hash")
    return tmp_path


def test_the_stream_is_the_concatenated_documents(folder: Path) -> None:
    stream = TokenStream(folder)
    everything = [token for document in DOCUMENTS for token in document]
    assert len(stream.shards) > 1
    assert len(stream) == len(everything)
    for start in range(len(stream)):
        for stop in range(start, len(stream) + 3):
            assert stream.read(start, stop).tolist() == everything[start:stop]


def test_single_documents_can_be_read(folder: Path) -> None:
    stream = TokenStream(folder)
    assert [stream.document(i).tolist() for i in range(stream.num_documents)] == [d[:-1] for d in DOCUMENTS]


def test_large_vocabularies_need_four_bytes_per_token() -> None:
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


def test_the_fingerprint_depends_on_the_order_of_documents(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    writer = ShardWriter(other, token_dtype(300), shard_tokens=4)
    for document in reversed(DOCUMENTS):
        writer.add(document, text_bytes=len(document) - 1)
    writer.close("hash")
    assert TokenStream(other).fingerprint != TokenStream(folder).fingerprint


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def overwrite_magic(path: Path) -> None:
    path.write_bytes(b"SOMETHIN" + path.read_bytes()[8:])


@pytest.mark.parametrize("damage", [cut_short, overwrite_magic, Path.unlink])
def test_a_damaged_shard_is_reported(folder: Path, damage) -> None:
    damage(folder / "shard_00001.bin")
    with pytest.raises(UserError, match=r"shard_00001\.bin must"):
        TokenStream(folder)


def test_a_header_that_does_not_match_the_manifest_is_rejected(folder: Path) -> None:
    path = folder / "shard_00000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:16] + bytes([content[16] + 1]) + content[17:])
    with pytest.raises(UserError, match=r"shard_00000\.bin must match manifest\.json"):
        TokenStream(folder)


def test_a_flipped_bit_is_detected_on_first_read_or_by_verification(folder: Path) -> None:
    contents = {path: path.read_bytes() for path in sorted(folder.glob("*.bin"))}
    for number, (path, content) in enumerate(contents.items()):
        for offset in range(HEADER.size, len(content)):
            path.write_bytes(content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :])
            os.utime(path, ns=(offset, offset))  # otherwise two changes could get the same timestamp
            stream = TokenStream(folder)
            with pytest.raises(UserError, match=rf"{path.name} must have the sha256.*delete .* and run the same"):
                stream.read(0, len(stream))
            with pytest.raises(UserError, match=rf"{path.name} must have the sha256"):
                stream.verify_shard(number)
        path.write_bytes(content)
    assert len(TokenStream(folder).read(0, 100)) == sum(map(len, DOCUMENTS))


@pytest.mark.parametrize("read", [
    lambda stream: stream.bounds(stream.num_documents - 1), lambda stream: stream.document_starts(0, len(stream)),
    lambda stream: stream.windows(np.array([len(stream) - 2]), 2), lambda stream: stream.document(4),
    lambda stream: stream.end_of_text,
])  # fmt: skip
def test_every_read_method_checks_the_hash(folder: Path, read) -> None:
    last = sorted(folder.glob("*.bin"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="must have the sha256"):
        read(TokenStream(folder))


def test_a_shard_is_hashed_once_per_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TokenStream(folder)
    stream.read(0, len(stream))
    monkeypatch.setattr("hashlib.file_digest", None)
    second = TokenStream(folder)
    assert second.read(0, len(second)).tolist() == stream.read(0, len(stream)).tolist()


@pytest.mark.parametrize("edit", [
    lambda manifest: manifest["shards"][0].update(sha256="0" * 64), lambda manifest: manifest["shards"].pop(),
    lambda manifest: manifest.update(tokenizer="another"), lambda manifest: manifest.update(fingerprint="another"),
    lambda manifest: manifest["shards"][0].update(text_bytes=9), lambda manifest: manifest.pop("sha256"),
    lambda manifest: manifest["shards"].reverse(), lambda manifest: manifest.pop("shards"),
])  # fmt: skip
def test_an_edited_manifest_is_rejected(folder: Path, edit) -> None:
    manifest = read_json(folder / MANIFEST)
    edit(manifest)
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(UserError, match=r"manifest\.json must .*delete .* and run the same command"):
        TokenStream(folder)


def test_a_manifest_that_is_not_json_is_rejected(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json must be a manifest"):
        TokenStream(folder)


def test_documents_are_found_for_any_alignment_of_the_offsets(tmp_path: Path) -> None:
    for shift in range(4):  # in tokens of two bytes
        writer = ShardWriter(tmp_path / str(shift), token_dtype(300))
        lengths = [1 + shift, 2, 5, 1, 3]
        for length in lengths:
            writer.add([7] * length, text_bytes=1)
        writer.close("hash")
        stream = TokenStream(tmp_path / str(shift))
        ends = np.cumsum(lengths)
        starts = [0, *ends[:-1].tolist()]
        for first in range(len(stream)):
            assert stream.document_starts(first, first + 4) == [s for s in starts if first <= s < first + 4]
        assert [stream.bounds(i) for i in range(5)] == list(zip(starts, ends.tolist(), strict=True))


def test_a_folder_without_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        TokenStream(tmp_path)


def test_the_header_has_the_documented_size() -> None:
    assert HEADER.size == 32
