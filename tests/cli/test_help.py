"""Help is fast, without importing torch or Lightning, and lists all options."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROGRAMS = {
    "train.py": [str(REPOSITORY / "train.py")],
    "evaluate.py": [str(REPOSITORY / "evaluate.py")],
    "minimind": ["-m", "minimind.cli.main"],
    "minimind prepare": ["-m", "minimind.cli.main", "prepare"],
    "minimind generate": ["-m", "minimind.cli.main", "generate"],
    "minimind report": ["-m", "minimind.cli.main", "report"],
}


def run_with_imports(arguments: list[str], cwd: Path) -> tuple[str, set[str]]:
    """The output of a command, and the top-level packages it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done.stdout, {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_neither_torch_nor_lightning(program: str, tmp_path: Path) -> None:
    text, imported = run_with_imports([*PROGRAMS[program], "--help"], tmp_path)
    assert len(text.splitlines()) > 5
    assert not imported & {"torch", "lightning", "transformers", "wandb", "hydra"}


def test_showing_the_configuration_imports_no_torch(tmp_path: Path) -> None:
    text, imported = run_with_imports([*PROGRAMS["train.py"], "--cfg", "job", "model=minimind_64m"], tmp_path)
    assert "hidden_size: 768" in text
    assert not imported & {"torch", "lightning", "transformers", "wandb"}


def test_train_help_names_every_group_and_option(tmp_path: Path) -> None:
    text, _ = run_with_imports([*PROGRAMS["train.py"], "--help"], tmp_path)
    for path in (REPOSITORY / "conf").glob("*/*.yaml"):
        assert path.parent.name in text
        assert path.stem in text
