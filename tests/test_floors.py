"""Imports only go to lower floors; packages on the same floor do not import each other (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "minimind"
FLOORS = [
    ("utils", "runs"),
    ("model", "tokenizer"),
    ("data", "optim", "generation"),
    ("evaluation",),
    ("objectives", "parallel", "tracking"),
    ("training",),
    ("interop", "report"),
    ("config",),
    ("sweep", "library"),
    ("cli",),
]
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
ALLOWED = {("runs", "utils")}  # on the same floor
FILES = sorted(PACKAGE.rglob("*.py"))


def modules(path: Path) -> set[str]:
    """Modules a file imports, including lazy imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """Packages of minimind that a file imports."""
    return {name.split(".")[1] for name in modules(path) if name.startswith("minimind.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if package == "__init__":
        return  # resolves names of every floor when they are first used; test_library.py
    for other in imported(path) - {package}:
        assert FLOOR[other] < FLOOR[package] or (package, other) in ALLOWED, f"{path} imports {other}"


def test_every_package_has_a_floor() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= set(FLOOR)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_init_files_have_only_a_docstring(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def third_party(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return froms | {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").rglob("*.py")), ids=lambda p: p.name)
def test_model_is_plain_torch(path: Path) -> None:
    assert not third_party(path) & {"lightning", "hydra", "omegaconf", "wandb", "transformers"}


KERNEL_WORDS = ("is_compiling", "autograd", "mkl", "onednn", "is_available", "requires_grad", "grad_enabled",
                "inference_mode", 'type == "cpu"', "contiguous")  # fmt: skip


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").glob("*.py")), ids=lambda p: p.name)
def test_kernels_are_only_in_model_ops(path: Path) -> None:
    code = "\n".join(line.partition("  #")[0] for line in path.read_text(encoding="utf-8").splitlines())
    assert not [word for word in KERNEL_WORDS if word in code.lower()]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/config.py")), ids=lambda p: p.parent.name)
def test_configurations_are_torch_free(path: Path) -> None:
    assert not third_party(path) & {"torch", "lightning", "transformers"}


GRADIENT_WORDS = ("requires_grad", "grad_enabled", "inference_mode", "is_inference", ".training")


@pytest.mark.parametrize("path", sorted((PACKAGE / "model" / "ops").glob("*.py")), ids=lambda p: p.name)
def test_kernel_choice_does_not_depend_on_gradient_recording(path: Path) -> None:
    """tests/model/test_recording.py compares the results."""
    assert not [word for word in GRADIENT_WORDS if word in path.read_text(encoding="utf-8")]


def test_no_circular_imports() -> None:
    """Neither indirect nor lazy nor for type checking."""
    files = {".".join(("minimind", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    needs = {name: modules(path) & files.keys() for name, path in files.items()}
    while leaves := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in leaves:
            del needs[name]
    assert not needs
