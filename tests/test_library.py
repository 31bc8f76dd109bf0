"""What docs/library.md promises: its blocks are run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import minimind
from minimind.cli import evaluate, main
from minimind.cli import train as train_program
from minimind.model.norm import RMSNorm
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig
from minimind.runs.metrics_file import read_rows
from minimind.utils.errors import ConfigError, UserError
from minimind.utils.files import read_json
from minimind.utils.user_code import allowed, take_option

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PARTS,) = (block for block in BLOCKS if block.startswith("# my_parts.py"))
NOTEBOOK = [block for block in BLOCKS if block != PARTS]
COMMANDS = re.findall(r"^python (train\.py .*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMIND_ALLOW", "")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the page's my_parts.py in it."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_parts.py").write_text(PARTS)
    return folder


@pytest.fixture(scope="module")
def own_run(parts: Path, small_arguments: list[str], root: Path) -> Path:
    """A run with the options of all the page's commands at once, stopped half-way and continued."""
    options = [option for command in COMMANDS for option in shlex.split(command)[1:]]
    options = [option for option in options if option not in ("--allow", "my_parts")]
    common = ["--allow", "my_parts", *small_arguments, *options, "run.name=own", "schedule=constant"]
    for steps in (10, 20):  # the second goes on from the first
        (*_, folder) = [None, *root.glob("runs/own-????????")]
        resumed = [f"run.resume={folder}", "--allow=my_parts"] if folder else common
        train(parts, root, *resumed, f"trainer.max_steps={steps}")
    (folder,) = root.glob("runs/own-????????")
    return folder


def train(here: Path, root: Path, *arguments: str) -> None:
    environment = {**os.environ, "MINIMIND_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    start = [sys.executable, str(REPOSITORY / "train.py")]
    done = subprocess.run([*start, *arguments], cwd=here, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def forgotten(parts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder is the current one, and its module was not imported before."""
    sys.modules.pop("my_parts", None)
    monkeypatch.chdir(parts)
    yield parts
    sys.modules.pop("my_parts", None)


def test_the_page_runs_as_a_notebook(
    small_run: Path, own_run: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    folders = {"runs/<run>": small_run, "runs/<a run with a norm of your own>": own_run}
    for block in NOTEBOOK:
        exec(re.sub(r"runs/<.*?>", lambda found: str(folders[found[0]]), block), names)
    assert "parameters, trained with adamw" in capsys.readouterr().out
    assert names["hidden"][1].shape == (*names["ids"].shape, names["hidden"][0].shape[-1])
    assert type(names["model"].model.norm).__name__ == "DynamicTanh"
    assert names["model"].config.num_parameters() == sum(p.numel() for p in names["model"].parameters())


def test_a_run_with_parts_of_ones_own_is_like_any_other(own_run: Path) -> None:
    rows = read_rows(own_run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert all(row["train/entropy"] > 0 for row in rows)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    state = torch.load(own_run / "checkpoints" / "step_00000020" / "state.pt", weights_only=True)
    assert "momentum" in state["optimizer_states"][0]["state"]["model.layers.0.self_attn.q_proj.weight"]


def test_resuming_is_exact(own_run: Path, parts: Path, small_arguments: list[str], root: Path) -> None:
    options = [option for command in COMMANDS for option in shlex.split(command)[1:]]
    straight = ["run.name=straight", "schedule=constant", "trainer.max_steps=20"]
    train(parts, root, *small_arguments, *options, *straight)
    (folder,) = root.glob("runs/straight-????????")
    one, other = (
        torch.load(run / "checkpoints" / "step_00000020" / "state.pt", weights_only=True) for run in (own_run, folder)
    )
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name


VERBS: list[tuple[Any, list[str]]] = [
    (main, ["generate", "{run}", "--prompt", "the"]),
    (main, ["export", "{run}", "--to", "nowhere"]),
    (evaluate, ["checkpoint={run}"]),
]


@pytest.mark.parametrize(("program", "arguments"), VERBS, ids=["generate", "export", "evaluate"])
def test_a_folder_brings_no_code(
    program: Any, arguments: list[str], own_run: Path, forgotten: Path, run_here: Callable[..., Any]
) -> None:
    said = run_here(program, *(argument.format(run=own_run) for argument in arguments))
    assert said.code == 2
    assert "if you trust the module, add --allow my_parts" in said.err
    assert "my_parts" not in sys.modules


def test_initial_weights_bring_no_code(
    own_run: Path, forgotten: Path, run_here: Any, small_arguments: list[str]
) -> None:
    result = run_here(train_program, *small_arguments, f"init_from={own_run}", "run.name=from_own")
    assert result.code == 2
    assert "if you trust the module, add --allow my_parts" in result.err


def test_a_verb_with_the_module_allowed(own_run: Path, forgotten: Path, run_here: Callable[..., Any]) -> None:
    said = run_here(main, "generate", own_run, "--prompt", "the", "--max-new-tokens", 4, "--allow", "my_parts")
    assert said.code == 0
    assert said.out.startswith("the")


def test_what_allow_takes() -> None:
    assert take_option(["a=1", "--allow", "one", "--allow=two.three", "-m"]) == ["a=1", "-m"]
    assert allowed() == ("one", "two.three")
    for wrong, words in ((["--allow"], "must be followed by"), (["--allow", "a/b"], "must name a module")):
        with pytest.raises(ConfigError, match=words):
            take_option(wrong)


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        ("rmsnrom", "`norm` must be one of rmsnorm, layernorm, or a class of your own"),
        ("my_parts.DynamicTanh", "is my_parts.DynamicTanh, a class that does not come with MiniMind"),
        ("torch.nn.Nothing", "torch.nn has no class Nothing"),
        ("torch.nn.functional", "torch.nn has no class functional"),
        ("torch.optim.SGD", "must name a torch.nn.Module that takes (size, eps)"),
        ("nowhere.Norm", "No module named 'nowhere'"),
    ],
)
def test_a_norm_that_cannot_be_used(norm: str, words: str, forgotten: Path) -> None:
    minimind.allow("torch", "nowhere")
    with pytest.raises(UserError, match=re.escape(words)):
        minimind.MiniMind(minimind.ModelConfig(vocab_size=64, hidden_size=32, num_attention_heads=4, norm=norm))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "adamwx"}, "must be one of adamw, muon, or a class of your own"),
        ({"kind": "torch.optim.RAdam", "betas": [0.9, 0.98]}, "`optim.betas` is a setting of adamw and muon"),
        ({"kind": "torch.optim.RAdam", "options": {"beta": 1}}, "unexpected keyword argument 'beta'"),
        ({"kind": "torch.nn.Linear"}, "must take parameter groups"),
        ({"kind": "adamw", "options": {"beta": 1}}, "`optim.options` must be empty with optim=adamw"),
    ],
)
def test_an_optimizer_that_cannot_be_used(settings: dict[str, Any], words: str) -> None:
    minimind.allow("torch")
    with pytest.raises(UserError, match=re.escape(words)):
        build_optimizer(RMSNorm(4, 1e-5).named_parameters(), OptimConfig(**settings))


def test_an_optimizer_of_ones_own_skips_a_step_that_is_not_finite() -> None:
    minimind.allow("torch.optim")
    norm = RMSNorm(4, 1e-5)
    optimizer = build_optimizer(norm.named_parameters(), OptimConfig("torch.optim.SGD", lr=1.0))
    norm.weight.grad = torch.ones(4)
    for found_inf, left in ((1.0, 1.0), (0.0, 0.0)):
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()
        assert norm.weight.tolist() == [left] * 4


def test_import_is_quick_and_names_are_there() -> None:
    code = "import minimind, sys; print(sorted(n for n in sys.modules if n.split('.')[0] in ('torch', 'hydra')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
    assert {name: getattr(minimind, name).__name__ for name in minimind.__all__}.keys() <= set(dir(minimind))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        minimind.nothing  # noqa: B018


def test_the_configuration_of_a_run_is_its_own(small_run: Path) -> None:
    loaded = minimind.load(small_run, device="cpu")
    assert loaded.config.trainer.max_steps == read_json(small_run / "status.json")["step"]
    assert loaded.config.model == loaded.model.config
    first, again = (minimind.generate(loaded.model, loaded.tokenizer, "the", seed=3, max_new_tokens=9) for _ in "ab")
    assert first == again
