"""Whatever is in a file, reading it gives a value or one line that names the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.runs.stored_config import read_config
from minimind.utils.errors import DamagedFile, UserError, in_brief
from minimind.utils.files import parse_json, read_json, read_object, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
DAMAGE = {
    "empty": b"",
    "zeros": b"\x00" * 512,
    "cut short": b'{"step": 10, "state": "runn',
    "two in one": b'{"step": 1}{"step": 2}',
    "UTF-16": '{"step": 1}'.encode("utf-16"),
    "Latin-1": '{"name": "naïve"}'.encode("latin-1"),
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a long number": b'{"step": ' + b"9" * 5000 + b"}",
}


@given(JSON)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0129eE+-.NaInfty \n', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_value_or_one_line(data: bytes) -> None:
    said = ""
    try:
        parse_json(data)
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize("case", list(DAMAGE))
def test_damage_is_the_users_to_mend_and_still_a_value_error(case: str, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(DAMAGE[case])
    with pytest.raises(DamagedFile, match=r"status\.json must be JSON, but .*; put a whole copy") as raised:
        read_json(path)
    assert isinstance(raised.value, UserError)
    assert isinstance(raised.value, ValueError)
    assert "sys." not in str(raised.value)


def test_an_object_is_asked_for_and_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(DamagedFile, match="must be a JSON object, but is a list"):
        read_object(tmp_path / "a.json")
    with pytest.raises(DamagedFile, match="must be JSON, but cannot be read: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "a: b: c", "\x00", "!!python/object/apply:os.system [ls]"])
def test_settings_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DamagedFile, match=r"config\.yaml must be a configuration as it was stored, but") as raised:
        read_config(tmp_path / "config.yaml")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "brief"),
    [
        ("It has custom code. Please pass trust_remote_code=True to load it.", "It has custom code"),
        ("Object arrays cannot be loaded when allow_pickle=False", "ValueError"),
        ("Not found, see https://huggingface.co/docs\nand much\nmore", "ValueError"),
        ("Unknown split \"x\". Should be one of ['train'].", "Unknown split \"x\". Should be one of ['train']"),
        ("", "ValueError"),
        ("colours \x1b[31m", "ValueError"),
    ],
)
def test_a_librarys_words_without_its_advice(said: str, brief: str) -> None:
    assert in_brief(ValueError(said)) == brief


def test_a_link_in_the_way_of_what_is_written_leads_nowhere(tmp_path: Path) -> None:
    """The name that a file has while it is written can be guessed."""
    victim, file = tmp_path / "victim.txt", tmp_path / "status.json"
    victim.write_text("mine")
    (tmp_path / f".{file.name}.{os.getpid()}.tmp").symlink_to(victim)
    write_json(file, {"step": 1})
    assert victim.read_text() == "mine"
    assert read_json(file) == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["status.json", "victim.txt"]
