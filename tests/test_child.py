"""Child processes import what this process would, and nothing from the folder they are started in."""

import ast
import os
import subprocess
from pathlib import Path

from minimind.utils.child import python_module, search_path
from minimind.utils.paths import PACKAGE


def test_modules_in_the_current_directory_are_not_imported(tmp_path: Path) -> None:
    """`cd runs/<somebody's>` and a command: neither a library's name nor ours may be taken from there."""
    for name in ("random", "argparse", "minimind", "hydra"):
        (tmp_path / f"{name}.py").write_text(f"open('imported_{name}', 'w').close()\n")
    done = subprocess.run(
        python_module("minimind.cli.main", "--help"), cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": search_path()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "from raw text to evidence" in done.stdout
    assert not list(tmp_path.glob("imported_*"))


def test_there_is_one_way_to_start_a_module() -> None:
    """No list of arguments with -m elsewhere."""
    for path in PACKAGE.rglob("*.py"):
        lists = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List)]
        starts = [
            node for node in lists if any(isinstance(e, ast.Attribute) and e.attr == "executable" for e in node.elts)
        ]
        assert not starts or path.name == "child.py", path


def test_the_search_path_has_the_package_once(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = search_path()
    assert found == f"{PACKAGE.parent}{os.pathsep}/somewhere"
    monkeypatch.setenv("PYTHONPATH", found)
    assert search_path() == found
