"""Everything is printed by `utils.terminal` or `utils.console`; nothing else decides what a terminal gets."""

import ast
import io
from pathlib import Path

import pytest

from minimind.utils.terminal import one_line, say, visible

PACKAGE = Path(__file__).resolve().parent.parent / "minimind"
PRINTERS = {
    "utils/terminal.py": {"print"},  # what `say` is made of
    "utils/console.py": {"Console"},  # what `VisibleConsole` is made of
}
FORBIDDEN = {"print", "Console", "get_console", "print_exc", "print_exception", "from_markup", "from_ansi", "os.write"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
NEEDED = {"Live": "console", "Progress": "console", "TextColumn": "markup"}  # rich's own defaults are others


def printed_with(tree: ast.AST) -> set[str]:
    """Names by which a file could print without the two."""
    found = set()
    of_rich: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich."):
            of_rich |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr in ("write", "writelines", "buffer"):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            found |= {f"{owner}.{node.attr}"} if owner in (*STREAMS, "os") else set()
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            printing = name != "print" or isinstance(node.func, ast.Name)  # console.print is of our console
            found |= {name} & FORBIDDEN if printing else set()
            needed = NEEDED.get(name) if name in of_rich else None
            if needed and needed not in {keyword.arg for keyword in node.keywords}:
                found.add(f"{name} without {needed}")
    return {name for name in found if name in FORBIDDEN or "." in name or " " in name}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_prints_by_itself(path: Path) -> None:
    found = printed_with(ast.parse(path.read_text(encoding="utf-8")))
    assert found <= PRINTERS.get(path.relative_to(PACKAGE).as_posix(), set())


@pytest.mark.parametrize(
    "code",
    ["print(1)", "rich.console.Console()", "Console()", "sys.stdout.write(x)", "w = sys.stderr.write", "os.write(2, x)",
     "traceback.print_exc()", "Text.from_markup(x)", "from rich.live import Live; Live(x)",
     "from rich.progress import TextColumn; TextColumn(x)"],
)  # fmt: skip
def test_the_test_sees(code: str) -> None:
    assert printed_with(ast.parse(code))
    assert not printed_with(
        ast.parse("console.print(1); file.write(x); from rich.live import Live; Live(x, console=c); say(x)")
    )


def test_what_acts_is_shown_and_what_is_read_stays() -> None:
    acting = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A),
              0xD800, 0xDFFF]  # fmt: skip
    for number in set(acting) - {0x09, 0x0A}:
        assert visible(chr(number)) == ascii(chr(number))[1:-1]
    read = "a\n\tnaïve e\u0301 日本 עברית 👩‍👩‍👧 <b> \\ \u00a0 x\ufffd"
    assert visible(read) == read
    assert one_line(" a\n\n b\rc\t") == r"a b\rc"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_a_character_ends_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimind.utils.console import VisibleConsole

    for action in (say, lambda text: VisibleConsole().print(text)):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", out)
        action("日 … \ud800")
        assert out.buffer.getvalue() == rb"\u65e5 \u2026 \ud800" + b"\n"
