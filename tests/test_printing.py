"""All output goes through `utils.terminal` or `utils.console`, which escape control characters on a terminal."""

import ast
import io
from pathlib import Path

import pytest

from minimind.utils.terminal import one_line, say, visible

PACKAGE = Path(__file__).resolve().parent.parent / "minimind"
PRINTERS = {
    "utils/terminal.py": {"print"},  # for `say`
    "utils/console.py": {"Console"},  # for `VisibleConsole`
}
FORBIDDEN = {"print", "Console", "get_console", "print_exc", "print_exception", "from_markup", "from_ansi", "os.write"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
NEEDED = {
    "Live": "console",
    "Progress": "console",
    "TextColumn": "markup",
}  # rich's defaults are unsafe


def printed_with(tree: ast.AST) -> set[str]:
    """Names through which a file could print without those two modules."""
    found = set()
    from_rich: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich."):
            from_rich |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr in ("write", "writelines", "buffer"):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            found |= {f"{owner}.{node.attr}"} if owner in (*STREAMS, "os") else set()
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            printing = name != "print" or isinstance(node.func, ast.Name)  # console.print is VisibleConsole's
            found |= {name} & FORBIDDEN if printing else set()
            needed = NEEDED.get(name) if name in from_rich else None
            if needed and needed not in {keyword.arg for keyword in node.keywords}:
                found.add(f"{name} without {needed}")
    return {name for name in found if name in FORBIDDEN or "." in name or " " in name}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_terminal_and_console_print(path: Path) -> None:
    found = printed_with(ast.parse(path.read_text(encoding="utf-8")))
    assert found <= PRINTERS.get(path.relative_to(PACKAGE).as_posix(), set())


@pytest.mark.parametrize(
    "code",
    ["print(1)", "rich.console.Console()", "Console()", "sys.stdout.write(x)", "w = sys.stderr.write", "os.write(2, x)",
     "traceback.print_exc()", "Text.from_markup(x)", "from rich.live import Live; Live(x)",
     "from rich.progress import TextColumn; TextColumn(x)"],
)  # fmt: skip
def test_printed_with_finds(code: str) -> None:
    assert printed_with(ast.parse(code))
    assert not printed_with(
        ast.parse("console.print(1); file.write(x); from rich.live import Live; Live(x, console=c); say(x)")
    )


def test_control_characters_are_escaped_and_text_is_kept() -> None:
    control = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A),
              0xD800, 0xDFFF]  # fmt: skip
    for number in set(control) - {0x09, 0x0A}:
        assert visible(chr(number)) == ascii(chr(number))[1:-1]
    text = "a\n\tnaïve e\u0301 日本 עברית 👩‍👩‍👧 <b> \\ \u00a0 x\ufffd"
    assert visible(text) == text
    assert one_line(" a\n\n b\rc\t") == r"a b\rc"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_missing_from_the_encoding_are_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimind.utils.console import VisibleConsole

    for action in (say, lambda text: VisibleConsole().print(text)):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", out)
        action("日 … \ud800")
        assert out.buffer.getvalue() == rb"\u65e5 \u2026 \ud800" + b"\n"
