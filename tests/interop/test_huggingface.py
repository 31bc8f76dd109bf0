"""Random tiny models converted to and from transformers: same logits, gradients and greedy text."""

import json
import pickle
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from minimind.cli import main
from minimind.cli.import_ import write_run
from minimind.generation.engine import generate
from minimind.generation.sampling import SamplingConfig
from minimind.interop.huggingface import export_folder, import_folder, import_model
from minimind.model.config import ModelConfig, YarnConfig
from minimind.model.transformer import MiniMind
from minimind.runs.checkpoints import checkpoint_of
from minimind.runs.folder import RunFolder
from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.chat import ChatRenderer
from minimind.training.checkpoint import load_model
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.files import read_json

V = 300
SHAPE: dict[str, Any] = dict(
    vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, max_position_embeddings=64, initializer_range=0.2,
)  # fmt: skip
MOE: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
THEIRS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, tied, wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, head_dim=12)),
    "llama, yarn": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SHAPE, "max_position_embeddings": 512}, rope_parameters=YARN)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "qwen3, tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **MOE, norm_topk_prob=True)),
    "qwen3_moe, half the layers": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, **MOE, decoder_sparse_step=2, head_dim=12)
    ),
}
OURS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, geglu, untied": {"hidden_act": "gelu", "tie_word_embeddings": False, "rope_theta": 1e4},
    "mistral": {"num_attention_heads": 6, "head_dim": 8},
    "llama, yarn": {"rope_scaling": YarnConfig(8.0, attention_factor=1.1)},
    "qwen3": {"qk_norm": True, "intermediate_size": None},
    "qwen3_moe": {"qk_norm": True, **MOE},
    "qwen3_moe, not normalized": {"qk_norm": True, **MOE, "norm_topk_prob": False, "mlp_only_layers": [0]},
}


@pytest.fixture(scope="module")
def tokenizer() -> BPE:
    return BPE.train(["the cat sat on a mat, and it rained; naïve 日本"] * 20, V)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def save_theirs(folder: Path, kind: str, tokenizer: BPE) -> Any:
    """A random transformers model, saved with a tokenizer; its norm weights are random too."""
    model = THEIRS[kind]().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    return model


def ours(**changes: Any) -> MiniMind:
    model = MiniMind(ModelConfig(**{**SHAPE, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model


def loss_gradients(model: Any, logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal_models(mine: MiniMind, theirs: Any, length: int = 24) -> None:
    ids = torch.randint(V, (2, length))
    my_logits, their_logits = mine(ids).logits, theirs(ids).logits
    torch.testing.assert_close(my_logits, their_logits, rtol=1e-5, atol=1e-5 * float(their_logits.detach().abs().max()))
    mine_by_name, theirs_by_name = loss_gradients(mine, my_logits, ids), loss_gradients(theirs, their_logits, ids)
    assert mine_by_name.keys() == theirs_by_name.keys()
    for name, gradient in theirs_by_name.items():
        assert (mine_by_name[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    prompt = ids[:1, :7]
    greedy = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    written = generate(mine, prompt[0].tolist(), max_new_tokens=12, sampling=SamplingConfig(temperature=0))
    assert list(written) == greedy[0, 7:].tolist()


@pytest.mark.parametrize("kind", list(THEIRS))
def test_their_model_survives_import_and_export(kind: str, tokenizer: BPE, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs", kind, tokenizer)
    model, read = import_folder(tmp_path / "theirs")
    assert read.hash == tokenizer.hash
    assert_equal_models(model, theirs)
    family = export_folder(model, tokenizer, tmp_path / "back", family=theirs.config.model_type)
    assert family == theirs.config.model_type
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(again) is type(theirs)
    torch.testing.assert_close(dict(again.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    assert_equal_models(model, again.eval())
    assert (
        load_file(tmp_path / "back" / "model.safetensors").keys()
        == load_file(tmp_path / "theirs" / "model.safetensors").keys()
    )  # experts one by one


@pytest.mark.parametrize("kind", list(OURS))
def test_our_model_survives_export_and_import(kind: str, tokenizer: BPE, tmp_path: Path) -> None:
    model = ours(**OURS[kind])
    assert export_folder(model, tokenizer, tmp_path / "out") == kind.split(",")[0]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert_equal_models(model, theirs)
    again = import_model(tmp_path / "out")
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    for name in ("resolved_head_dim", "resolved_intermediate_size", "context_length", "trained_context", "rope_theta"):
        assert getattr(again.config, name) == getattr(model.config, name), name
    assert again.config.num_parameters() == model.config.num_parameters()


@torch.no_grad()
def test_a_yarn_llama_agrees_at_eight_times_its_trained_length(tokenizer: BPE, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs", "llama, yarn", tokenizer)
    model = import_model(tmp_path / "theirs")
    assert model.config.context_length == 512
    ids = torch.randint(V, (1, 512))
    expected = theirs(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    model.config.rope_scaling.factor = 1.0
    assert (model(ids).logits - expected).abs().max() > 0.1  # else the length would not test YaRN


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "layernorm"}, "`norm` must be rmsnorm to export a model as Llama, Mistral, Qwen3 or Qwen3-MoE"),
        ({"gated_mlp": False}, "`gated_mlp` must be True"),
        ({"position": "learned"}, "`position` must be rope .* but is learned"),
        ({**MOE, "qk_norm": True, "num_shared_experts": 1}, "`num_shared_experts` must be 0 .* but is 1"),
        ({**MOE, "qk_norm": True, "router_score": "sigmoid"}, "`router_score` must be softmax .* but is sigmoid"),
        ({**MOE, "qk_norm": True, "balance_loss": "loss_free"}, "`balance_loss` must be .* but is loss_free"),
        (MOE, "`qk_norm` must be True"),
    ],
)
def test_unsupported_architectures_are_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, tokenizer: BPE, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        export_folder(ours(**changes), tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_wrong_family_and_a_folder_with_files_are_refused(tokenizer: BPE, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be llama or mistral for this architecture, but is qwen3"):
        export_folder(ours(), tokenizer, tmp_path / "out", family="qwen3")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="must be a new folder"):
        export_folder(ours(), tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "`model_type` in config.json must be one of llama, .* but is gpt2"),
        ({"attention_bias": True}, "`attention_bias` in config.json must be false .* but is True"),
        ({"mlp_bias": True}, "`mlp_bias`"),
        ({"model_type": "mistral", "sliding_window": 16}, "`sliding_window` .* at least .* but is 16"),
        ({"model_type": "mistral", "max_position_embeddings": 8192}, "`sliding_window` .* but is 4096"),
        ({"hidden_size": "32"}, "must have values of the types that transformers writes"),
        ({"rope_scaling": "yarn"}, "must have values of the types that transformers writes"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "must have 'factor', but does not"),
        ({"hidden_act": "quick_gelu"}, "`hidden_act` .* but is quick_gelu"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "`rope_type` .* but is llama3"),
        ({"quantization_config": {"bits": 4}}, "`quantization_config`"),
        ({"hidden_size": None}, "must have 'hidden_size', but does not"),
        ({"num_hidden_layers": 3}, r"lack model.layers.2.input_layernorm.weight, .* and 4 more"),
        ({"num_hidden_layers": 1}, r"have unexpected model.layers.1.input_layernorm.weight, .* and 4 more"),
        ({"tie_word_embeddings": True}, "have unexpected lm_head.weight"),
        ({"intermediate_size": 56}, r"the wrong shape .*mlp.gate_proj.weight \(48, 32\), not \(56, 32\)"),
    ],
)
def test_unsupported_or_inconsistent_folders_are_refused_by_name(
    changes: dict[str, Any], words: str, tokenizer: BPE, tmp_path: Path
) -> None:
    save_theirs(tmp_path, "llama", tokenizer)
    edit_config(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        import_model(tmp_path)


def test_the_rope_settings_of_transformers_4_are_read(tokenizer: BPE, tmp_path: Path) -> None:
    """As in MiniMind-3's published folder, with the rotary settings at the top level."""
    theirs = save_theirs(tmp_path, "llama, yarn", tokenizer)
    scaling = {"type": "yarn", **{name: value for name, value in YARN.items() if name == "factor" or "max" in name}}
    edit_config(tmp_path, rope_parameters=None, rope_theta=1e4, rope_scaling=scaling)
    assert_equal_models(import_model(tmp_path), theirs)


def test_sharded_and_pickled_weights_are_read(tokenizer: BPE, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path, "qwen3_moe", tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert_equal_models(import_model(tmp_path), theirs)
    (tmp_path / "pytorch_model.bin").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, kept in shards.items():
        save_file({name: weights[name] for name in kept}, tmp_path / file)
    weight_map = {name: file for file, kept in shards.items() for name in kept}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_equal_models(import_model(tmp_path), theirs)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_a_pickle_that_would_run_code_is_refused(
    tokenizer: BPE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_theirs(tmp_path, "llama", tokenizer)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match="must hold only tensors"):
        import_model(tmp_path)
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "but has no config.json"),
        ("model.safetensors", "must have weights in model.safetensors or pytorch_model.bin"),
        ("tokenizer.json", "must have a tokenizer.json, but has none"),
    ],
)
def test_an_incomplete_folder_is_refused(missing: str, words: str, tokenizer: BPE, tmp_path: Path) -> None:
    save_theirs(tmp_path, "llama", tokenizer)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=words):
        import_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.json", "[]", "must be a JSON object, but is a list"),
        ("config.json", "{", "must be JSON, but"),
        ("model.safetensors.index.json", "{}", "must map each weight to its file in `weight_map`"),
    ],
)
def test_invalid_json_is_refused(file: str, text: str, words: str, tokenizer: BPE, tmp_path: Path) -> None:
    save_theirs(tmp_path, "llama", tokenizer)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=words):
        import_model(tmp_path)


def test_the_tokenizer_of_another_model_is_refused(tokenizer: BPE, tmp_path: Path) -> None:
    export_folder(ours(vocab_size=280), tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match=r"`vocab_size` \(280\), but has 300 tokens"):
        import_folder(tmp_path / "out")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_the_exported_tokenizer_and_generation_config_match_ours(kind: str, tokenizer: BPE, tmp_path: Path) -> None:
    export_folder(ours(**OURS[kind]), tokenizer, tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the cat, naïve  日本\n\tif it rained 1984 <think> times…"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == theirs.pad_token_id == theirs.bos_token_id == tokenizer.end_of_text
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert theirs.apply_chat_template(chat, tokenize=False) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>\n"
    )
    assert theirs.apply_chat_template(chat, return_dict=False) == list(ChatRenderer(tokenizer).render(chat).ids)
    ids = theirs.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False)
    assert [ids[0], ids[-1]] == [1, tokenizer.encode("\n")[0]]
    generation = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert generation.eos_token_id == [tokenizer.end_of_text, 2]
    assert generation.pad_token_id == generation.bos_token_id == tokenizer.end_of_text


def test_half_precision_export_halves_the_file(tokenizer: BPE, tmp_path: Path) -> None:
    model = ours()
    for dtype in (torch.float32, torch.bfloat16):
        export_folder(model, tokenizer, tmp_path / str(dtype), dtype=dtype)
    sizes = [(tmp_path / str(dtype) / "model.safetensors").stat().st_size for dtype in (torch.float32, torch.bfloat16)]
    assert sizes[1] < 0.6 * sizes[0]
    read = import_model(tmp_path / str(torch.bfloat16))
    assert read.lm_head.weight.dtype is torch.float32
    torch.testing.assert_close(read.lm_head.weight, model.lm_head.weight, rtol=0.01, atol=0.01)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_two_exports_into_one_folder_do_not_mix(
    tokenizer: BPE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to finish is complete; the other reports that the folder exists, and leaves nothing behind."""
    first, second, save = ours(), ours(), BPE.save

    def save_late(*arguments: Any) -> None:
        monkeypatch.setattr(BPE, "save", save)
        export_folder(first, tokenizer, tmp_path / "out")
        save(*arguments)

    monkeypatch.setattr(BPE, "save", save_late)
    with pytest.raises(UserError, match="out must be a new folder that can be written, but: Directory not empty"):
        export_folder(second, tokenizer, tmp_path / "out")
    read = import_model(tmp_path / "out")
    torch.testing.assert_close(read.lm_head.weight, first.lm_head.weight, rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@contextmanager
def full_disk() -> Iterator[None]:
    """Limits the size of files to 20 KB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:  # before pytest writes anything
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_leaves_nothing(tokenizer: BPE, tmp_path: Path) -> None:
    message = r"(ex|im)ported must be a new folder that can be written, but: .*; choose"
    for write in (
        lambda: export_folder(ours(), tokenizer, tmp_path / "exported"),
        lambda: write_run(ours(), tokenizer, tmp_path, tmp_path / "imported"),
    ):
        with pytest.raises(UserError, match=message), full_disk():
            write()
    assert not files_in(tmp_path)


@pytest.mark.parametrize("name", ["file/out", "x" * 300, "/proc/out", "file"])
def test_a_target_that_cannot_be_a_folder_is_reported(
    name: str, run_here, small_run: Path, tokenizer: BPE, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    if not (tmp_path / "theirs").exists():
        export_folder(ours(), tokenizer, tmp_path / "theirs")
    before = files_in(tmp_path)
    for subcommand, source in (("export", small_run), ("import", tmp_path / "theirs")):
        result = run_here(main, subcommand, source, "--to", tmp_path / name)
        assert (result.code, f"{tmp_path / name} must be a new folder" in result.err) == (2, True), result.err
    assert files_in(tmp_path) == before


Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_survives_minimind_export_and_import(
    command: Command, small_run: Path, root: Path, text_file: Path
) -> None:
    output = command("minimind", "export", str(small_run), "--to", "exported").stdout
    assert "qwen3 model" in output
    theirs = AutoModelForCausalLM.from_pretrained(root / "exported").eval()
    model, tokenizer = load_model(checkpoint_of(small_run), torch.device("cpu"))
    ids = torch.tensor([tokenizer.encode("the cat sat on a mat")])
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)

    command("minimind", "import", "exported", "--to", "runs/imported")
    folder = RunFolder(root / "runs" / "imported")
    imported, _ = load_model(checkpoint_of(folder.path), torch.device("cpu"))
    assert read_json(checkpoint_of(folder.path) / "model.json") == imported.config.to_dict()
    torch.testing.assert_close(dict(imported.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    texts = [
        command("minimind", "generate", str(run), "--prompt", "the cat", "--greedy", "--max-new-tokens", "8").stdout
        for run in (small_run, "runs/imported")
    ]
    assert texts[0] == texts[1]
    command("evaluate.py", "checkpoint=runs/imported", "data=text", f"data.files=[{text_file}]",
            "data.sequence_length=32")  # fmt: skip
    assert list(folder.evaluations.glob("*.json"))
    assert "imported" in command("minimind", "runs").stdout

    refused = command("minimind", "import", "exported", "--to", "runs/imported", check=False)
    assert refused.returncode == 2
    assert re.search(r"runs/imported must be a new folder, but already exists", refused.stderr)
