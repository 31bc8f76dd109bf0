"""Reading any file gives a value or a one-line error that names the file."""

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
def test_json_round_trip(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0129eE+-.NaInfty \n', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_parse_or_raise_a_one_line_error(data: bytes) -> None:
    message = ""
    try:
        parse_json(data)
    except ValueError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.mark.parametrize("case", list(DAMAGE))
def test_damaged_file_is_a_user_error_and_a_value_error(case: str, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(DAMAGE[case])
    with pytest.raises(DamagedFile, match=r"status\.json must be JSON, but .*; replace it with a good copy") as raised:
        read_json(path)
    assert isinstance(raised.value, UserError)
    assert isinstance(raised.value, ValueError)
    assert "sys." not in str(raised.value)


def test_read_object_requires_an_object_and_a_missing_file_is_not_damage(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(DamagedFile, match="must be a JSON object, but is a list"):
        read_object(tmp_path / "a.json")
    with pytest.raises(DamagedFile, match="must be JSON, but cannot be read: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "a: b: c", "\x00", "!!python/object/apply:os.system [ls]"])
def test_invalid_configuration_is_one_line_naming_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DamagedFile, match=r"config\.yaml must be a stored configuration, but") as raised:
        read_config(tmp_path / "config.yaml")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("message", "brief"),
    [
        ("It has custom code. Please pass trust_remote_code=True to load it.", "It has custom code"),
        ("Object arrays cannot be loaded when allow_pickle=False", "ValueError"),
        ("Not found, see https://huggingface.co/docs\nand much\nmore", "ValueError"),
        ("Unknown split \"x\". Should be one of ['train'].", "Unknown split \"x\". Should be one of ['train']"),
        ("", "ValueError"),
        ("colours \x1b[31m", "ValueError"),
    ],
)
def test_in_brief_drops_a_librarys_advice(message: str, brief: str) -> None:
    assert in_brief(ValueError(message)) == brief


def test_link_at_the_temporary_path_is_not_followed(tmp_path: Path) -> None:
    """The name of the temporary file can be guessed."""
    victim, file = tmp_path / "victim.txt", tmp_path / "status.json"
    victim.write_text("mine")
    (tmp_path / f".{file.name}.{os.getpid()}.tmp").symlink_to(victim)
    write_json(file, {"step": 1})
    assert victim.read_text() == "mine"
    assert read_json(file) == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["status.json", "victim.txt"]
