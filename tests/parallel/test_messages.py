"""Messages between ranks are data: they decode to what was encoded, and are never executed."""

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minimind.parallel.messages import DTYPES, LIMIT, decode, encode
from minimind.training.checkpoint import random_state

PACKAGE = Path(__file__).resolve().parent.parent.parent / "minimind"
SIZES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.builds(
    lambda dtype, shape, seed: torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(200).to(dtype),
    st.sampled_from(list(DTYPES.values())), SIZES, st.integers(0, 99),
)  # fmt: skip
TEXT = st.text(st.characters(codec=None))  # including lone surrogates, which a path may have
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | TEXT.map(Path)
VALUES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of equal types at every level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(VALUES)
def test_round_trip(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_random_states_are_unchanged() -> None:
    """Ranks exchange them for every checkpoint."""
    state = random_state()
    assert same(decode(encode(state)), state)


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", {1: "a number as key"}, print, [object()], torch.ones(1, dtype=torch.complex64)]
)
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="must consist of plain values and tensors"):
        encode(value)


def test_size_limit_when_encoding_and_decoding() -> None:
    with pytest.raises(ValueError, match="must have at most"):
        encode("a" * LIMIT)
    with pytest.raises(ValueError, match="must have at most"):
        decode(b'"' + b"a" * LIMIT + b'"')


@pytest.mark.parametrize("message", [
    b"", b"{", b"\xff\xfe\xfa", pickle.dumps([1]), b"[" * 100_000, b'{"a": 1}', b'{"path": 3}',
    b'{"path": "a", "b": 1}', b'{"dict": []}', b'{"tensor": ["float32", [2], ""]}',
    b'{"tensor": ["float32", [1], "AAA="]}',
    b'{"tensor": ["load", [1], "AAAAAA=="]}', b'{"tensor": ["float32", [4611686018427387904, 0], "!"]}',
    b'{"tensor": ["float32", ["1"], "AAAAAA=="]}',
])  # fmt: skip
def test_invalid_message_is_an_error(message: bytes) -> None:
    with pytest.raises(ValueError, match="Another process sent an invalid message"):
        decode(message)


def test_dictionary_that_looks_like_a_tensor_stays_a_dictionary() -> None:
    value = {"tensor": ["float32", [1], "AAAAAA=="]}
    assert decode(encode(value)) == value
    assert isinstance(decode(json.dumps(value).encode()), Tensor)


PICKLERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
LISTENERS = {"socketserver", "http", "xmlrpc", "managers"}
CALLS = {"rendezvous", "init_rpc", "create_server", "TCPStore", "Listener", "Manager",
         *(f"{verb}_object" for verb in ("all_gather", "gather")),
         *(f"{verb}_object_list" for verb in ("broadcast", "scatter", "send", "recv"))}  # fmt: skip
ALLOWED = {
    ("parallel/store.py", "create_server"),
    ("parallel/store.py", "TCPStore"),
    ("utils/torch_files.py", "pickle"),  # imports only UnpicklingError
}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_store_listens_and_nothing_unpickles(path: Path) -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {part for module in modules for part in module.split(".")} & (PICKLERS | LISTENERS)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= {name.rsplit(".", 1)[-1]} & CALLS
            if name == "torch.load" and "weights_only=True" not in ast.unparse(node):
                found.add(name)
    assert not {name for name in found if (path.relative_to(PACKAGE).as_posix(), name) not in ALLOWED}
