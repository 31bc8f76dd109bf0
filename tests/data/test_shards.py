"""What goes into shards comes out of them, and a shard that is not whole is not read."""

from pathlib import Path

import numpy as np
import pytest

from minimind.data.shards import HEADER, MANIFEST, ShardWriter, TokenStream, token_dtype
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


def test_an_edited_manifest_is_found_out(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST)
    manifest["shards"][0]["tokens"] += 1
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(UserError, match=r"shard_00000\.bin must be as manifest\.json says"):
        TokenStream(folder)


def test_a_folder_without_manifest_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        TokenStream(tmp_path)


def test_header_is_as_documented() -> None:
    assert HEADER.size == 32
