"""Sets one thread before torch is imported: with many, tiny kernels are slow and forked workers hang."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# A run small enough for a test, with every part of the default run.
SMALL = [
    "debug=smoke", "model.num_hidden_layers=2", "model.vocab_size=300", "data.sequence_length=32",
    "trainer.batch_tokens=256", "evaluation.max_new_tokens=4",
]  # fmt: skip

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short documents of made-up prose, one per line."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "was", "naïve", "日本", "if", "it", "rained"]
    lines = [" ".join(words[(i * j + i + j) % len(words)] for j in range(60)) + f" {i}.\n" for i in range(120)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MINIMIND_ROOT shared by all command-line tests, so that data are prepared once."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def command(root: Path, text_file: Path) -> Command:
    """Runs train.py, evaluate.py or minimind in a new process, outside the repository."""

    def run(program: str, *arguments: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-W", "error::ResourceWarning"]
        start += ["-m", "minimind.cli.main"] if program == "minimind" else [str(REPOSITORY / program)]
        done = subprocess.run(
            [*start, *arguments], capture_output=True, text=True, cwd=root, timeout=120,
            env={**os.environ, "MINIMIND_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"}, **options,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: Path) -> Callable[..., Result]:
    """Runs a program in this process, as a new one would take seconds, and checks that it prints no traceback.

    The first argument is a module with a `main`, such as `minimind.cli.train`.
    """

    def run(program: Any, *arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
        monkeypatch.setenv("MINIMIND_ROOT", str(root))
        code = program.main()
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return Result(code, output.out, output.err)

    return run


@pytest.fixture(scope="session")
def small_arguments(text_file: Path) -> list[str]:
    return [*SMALL, "data=text", f"data.files=[{text_file}]", "data.block_kb=1"]


@pytest.fixture(scope="session")
def small_run(command: Command, small_arguments: list[str], root: Path) -> Iterator[Path]:
    """Folder of a finished run, made with train.py."""
    command("train.py", *small_arguments, "run.name=shared")
    (folder,) = root.glob("runs/shared-????????")
    return folder
