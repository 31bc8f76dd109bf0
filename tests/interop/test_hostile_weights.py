"""A file of weights that contains anything but finite floats is refused by name, and nothing is written."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from minimind.cli import main
from minimind.interop.huggingface import export_folder, import_model
from minimind.model.config import ModelConfig
from minimind.model.transformer import MiniMind
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.torch_files import load_tensors

NAME = "model.layers.1.mlp.up_proj.weight"
INF, NAN = float("inf"), float("nan")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def tokenizer() -> BPE:
    return BPE.train(["the cat sat on a mat"] * 20, 280)


@pytest.fixture(scope="module")
def model() -> MiniMind:
    torch.manual_seed(0)
    cfg = ModelConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                      intermediate_size=24, max_position_embeddings=32)  # fmt: skip
    return MiniMind(cfg).eval()


@pytest.fixture
def folder(model: MiniMind, tokenizer: BPE, tmp_path: Path) -> Path:
    export_folder(model, tokenizer, tmp_path / "theirs")
    return tmp_path / "theirs"


def weights_of(model: MiniMind) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}


def as_pickle(folder: Path, weights: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def with_value(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.to(dtype)
        changed[3, 5] = value
        return changed

    return change


def quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (with_value(NAN), "finite as float32, but"),
    "infinite": (with_value(-INF), "finite as float32, but"),
    "NaN in bfloat16": (with_value(NAN, torch.bfloat16), "finite as float32, but"),
    "too large for float32": (with_value(1e300, torch.float64), "finite as float32, but"),
    "int8": (lambda t: t.to(torch.int8), r"\(int8\)"),
    "int64": (lambda t: t.to(torch.int64), r"\(int64\)"),
    "bool": (lambda t: t > 0, r"\(bool\)"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), r"\(float8_e4m3fn\)"),
    "complex": (lambda t: t.to(torch.complex64), r"\(complex64\)"),
    "quantized": (quantized, "quantised or sparse"),
    "sparse": (lambda t: t.to_sparse(), "quantised or sparse"),
    "compressed rows": (lambda t: t.to_sparse_csr(), "quantised or sparse"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "nested"),
    "meta": (lambda t: t.to("meta"), "without data"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(CHANGES))
def test_import_accepts_only_finite_floats(case: str, folder: Path, model: MiniMind) -> None:
    change, words = CHANGES[case]
    weights = weights_of(model)
    weights[NAME] = change(weights[NAME])
    as_pickle(folder, weights)
    with pytest.raises(UserError, match=words) as raised:
        import_model(folder)
    assert NAME in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_accepted(dtype: torch.dtype, folder: Path, model: MiniMind) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in weights_of(model).items()}
    save_file(weights, folder / "model.safetensors")
    imported = import_model(folder).state_dict()
    assert all(torch.equal(imported[name], tensor.float()) for name, tensor in weights.items())


def test_the_message_names_the_first_weights_and_counts_the_rest(folder: Path, model: MiniMind) -> None:
    save_file({name: tensor * NAN for name, tensor in weights_of(model).items()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"finite as float32, but are not: (model\.\S+, ){4}model\.\S+ and \d+ more\."):
        import_model(folder)


def test_minimind_import_refuses_and_writes_nothing(
    folder: Path, model: MiniMind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = weights_of(model)
    weights[NAME][0, 0] = NAN
    save_file(weights, folder / "model.safetensors")
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr("sys.argv", ["minimind", "import", str(folder), "--to", "runs/new"])
    assert main.main() == 2
    assert NAME in capsys.readouterr().err
    assert not list(tmp_path.glob("root/**/*"))


def test_zero_strides_do_not_expand_a_small_file_into_a_large_model(folder: Path, model: MiniMind) -> None:
    as_pickle(folder, {name: torch.zeros(1).expand(tensor.shape) for name, tensor in weights_of(model).items()})
    with pytest.raises(UserError, match=r"must be stored in full, but only .* of .* bytes are"):
        import_model(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rms_norm_eps": NAN}, "`rms_norm_eps` must be a finite number, but is nan"),
        ({"rms_norm_eps": -1.0}, "`rms_norm_eps` must be at least 0"),
        ({"initializer_range": INF}, "`initializer_range` must be a finite number, but is inf"),
        ({"hidden_size": 10**9, "num_attention_heads": 10**8}, "`hidden_size` must be at most 16,777,216"),
        ({"hidden_size": -16}, "`hidden_size` must be at least 1, but is -16"),
        ({"hidden_size": 16.0}, "`hidden_size` must be an integer, but is 16.0"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` must be at most 4,096"),
        ({"num_hidden_layers": 4000}, "must match the weights, but describes .* parameters, and the weights have"),
        ({"vocab_size": 2**24}, "must match the weights"),
        ({"max_position_embeddings": 10**400}, "`max_position_embeddings` must be at most|values of the types"),
        ({"max_position_embeddings": INF}, "`max_position_embeddings` must be an integer, but is inf"),
        ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` must be true or false"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": NAN}}, r"`rope_scaling\.factor` must be a finite number"),
    ],
)
def test_invalid_numbers_in_config_json_are_refused(changes: dict[str, Any], words: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_parameters": None} | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        import_model(folder)


@pytest.mark.parametrize("text", ["\x00" * 64, "[" * 100_000, '{"hidden_size": ' + "9" * 5000 + "}", "\ufeff{}"])
def test_a_damaged_config_gives_a_one_line_message(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json must be JSON, but") as raised:
        import_model(folder)
    assert "set_int_max_str_digits" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_shards_must_be_in_the_folder_and_contain_each_weight_once(folder: Path, model: MiniMind) -> None:
    weights = weights_of(model)
    index = folder / "model.safetensors.index.json"
    for file in ("a.safetensors", "b.safetensors"):
        save_file(weights, folder / file)
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "../theirs/b.safetensors"}}))
    with pytest.raises(UserError, match=r"must be in one file only, but b.safetensors repeats .* and \d+ more"):
        import_model(folder)
    for files in ({"x": 5}, {"x": None}, [], {"x": ["a"]}):
        index.write_text(json.dumps({"weight_map": files}))
        with pytest.raises(UserError):
            import_model(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../../c.safetensors"}}))
    save_file(weights, folder.parent.parent / "c.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        import_model(folder)


@pytest.mark.parametrize(
    ("dtype", "value", "remedy"),
    [
        (torch.float16, 1e5, "; use --dtype bfloat16 or float32"),
        (torch.bfloat16, 3.4e38, "; use --dtype float32"),
        (torch.float32, INF, ""),
    ],
)
def test_export_does_not_overflow(
    dtype: torch.dtype, value: float, remedy: str, model: MiniMind, tokenizer: BPE, tmp_path: Path
) -> None:
    large = MiniMind(model.config)
    large.get_parameter(NAME).data[0, 0] = value
    with pytest.raises(UserError, match=f"finite as {str(dtype)[6:]} .* but are not: {NAME}{remedy}[.]$"):
        export_folder(large, tokenizer, tmp_path / "out", dtype=dtype)
    assert not list(tmp_path.iterdir())


def hostile_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Files that do not contain tensors only, and the expected message."""
    torch.save({"a": torch.ones(40_000)}, folder / "good.pt")
    torch.save({"a": torch.ones(4), "h": Harmful(folder / "harm")}, folder / "zip.pt")
    torch.save({"a": np.ones(3)}, folder / "numpy.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "script.pt")
    good, harm = (folder / "good.pt").read_bytes(), r"also holds .*; it is never loaded"
    return {
        "code in a zip": ((folder / "zip.pt").read_bytes(), harm),
        "code in a pickle": (pickle.dumps(Harmful(folder / "harm")), harm),
        "old code": (pickle.dumps(Harmful(folder / "harm"), protocol=2), harm.replace(".*", r"posix\.mkdir")),
        "NumPy": ((folder / "numpy.pt").read_bytes(), harm.replace(".*", r"numpy\S+_reconstruct")),
        "a program": ((folder / "script.pt").read_bytes(), harm),
        "empty": (b"", "truncated"),
        "text": (b"hello, I am not a tensor\n", "truncated"),
        "half": (good[: len(good) // 2], "truncated"),
        "nearly all": (good[:-1], "truncated"),
        "zeros": (bytes(4096), "truncated"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mmap", [False, True])
def test_a_hostile_file_gives_our_own_message(
    mmap: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    files = hostile_files(tmp_path)
    recwarn.clear()
    capfd.readouterr()
    for name, (content, words) in files.items():
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(DamagedFile, match=words) as raised:
            load_tensors(tmp_path / "state.pt", mmap=mmap)
        message = str(raised.value)
        assert str(tmp_path / "state.pt") in message, name
        assert not any(text in message for text in ("weights_only", "http", "torch.load", "\n", "\x1b")), message
    assert not (tmp_path / "harm").exists()
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    with pytest.raises(DamagedFile, match="cannot be read: No such file"):
        load_tensors(tmp_path / "missing.pt", mmap=mmap)
