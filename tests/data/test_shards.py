"""What goes into shards comes out of them, and a shard that is not whole is not read."""

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


def test_stream_is_the_documents_one_after_another(folder: Path) -> None:
    stream = TokenStream(folder)
    everything = [token for document in DOCUMENTS for token in document]
    assert len(stream.shards) > 1
    assert len(stream) == len(everything)
    for start in range(len(stream)):
        for stop in range(start, len(stream) + 3):
            assert stream.read(start, stop).tolist() == everything[start:stop]


def test_documents_come_back(folder: Path) -> None:
    stream = TokenStream(folder)
    assert [stream.document(i).tolist() for i in range(stream.num_documents)] == [d[:-1] for d in DOCUMENTS]


def test_large_vocabularies_take_four_bytes() -> None:
    assert token_dtype(65_536) == np.dtype("<u2")
    assert token_dtype(65_537) == np.dtype("<u4")


def test_fingerprint_is_of_the_tokens(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
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


@pytest.mark.parametrize("harm", [cut_short, overwrite_magic, Path.unlink])
def test_a_harmed_shard_is_named(folder: Path, harm) -> None:
    harm(folder / "shard_00001.bin")
    with pytest.raises(UserError, match=r"shard_00001\.bin must"):
        TokenStream(folder)


def test_a_header_that_is_not_as_the_manifest_says_is_found(folder: Path) -> None:
    path = folder / "shard_00000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:16] + bytes([content[16] + 1]) + content[17:])
    with pytest.raises(UserError, match=r"shard_00000\.bin must be as manifest\.json says"):
        TokenStream(folder)


def test_a_flipped_bit_is_found_when_the_shard_is_first_read_or_at_once(folder: Path) -> None:
    whole = {path: path.read_bytes() for path in sorted(folder.glob("*.bin"))}
    for number, (path, content) in enumerate(whole.items()):
        for place in range(HEADER.size, len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            os.utime(path, ns=(place, place))  # else two changes could fall into one tick of the clock
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
def test_no_way_of_reading_goes_past_the_hash(folder: Path, read) -> None:
    last = sorted(folder.glob("*.bin"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="must have the sha256"):
        read(TokenStream(folder))


def test_a_shard_is_hashed_once_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TokenStream(folder)
    stream.read(0, len(stream))
    monkeypatch.setattr("hashlib.file_digest", None)
    again = TokenStream(folder)
    assert again.read(0, len(again)).tolist() == stream.read(0, len(stream)).tolist()


@pytest.mark.parametrize("edit", [
    lambda manifest: manifest["shards"][0].update(sha256="0" * 64), lambda manifest: manifest["shards"].pop(),
    lambda manifest: manifest.update(tokenizer="another"), lambda manifest: manifest.update(fingerprint="another"),
    lambda manifest: manifest["shards"][0].update(text_bytes=9), lambda manifest: manifest.pop("sha256"),
    lambda manifest: manifest["shards"].reverse(), lambda manifest: manifest.pop("shards"),
])  # fmt: skip
def test_a_manifest_that_was_edited_is_named(folder: Path, edit) -> None:
    manifest = read_json(folder / MANIFEST)
    edit(manifest)
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(UserError, match=r"manifest\.json must .*delete .* and run the same command"):
        TokenStream(folder)


def test_a_manifest_that_is_no_json_is_named(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json must be a manifest"):
        TokenStream(folder)


def test_offsets_are_found_whatever_their_alignment(tmp_path: Path) -> None:
    for shift in range(4):  # of two bytes each
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


def test_a_folder_without_manifest_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        TokenStream(tmp_path)


def test_header_is_as_documented() -> None:
    assert HEADER.size == 32
