"""Control characters in samples, names and messages are escaped on a terminal and unchanged in a pipe."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import tty
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from made_sweeps import Maker

from minimind.cli import main
from minimind.cli.app import guarded
from minimind.report.summary import print_summary
from minimind.runs.folder import RunFolder
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import UserError
from minimind.utils.terminal import visible

NAME = "\x1b]0;owned\x07\x1b[2J\x9b2J\r\u202e[red]:smile:"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b2J\r\u202e[red]:smile:"
TEXT = f"{NAME}[/foo][link=https://e.vil]\u2028\x00\x85"  # with unbalanced rich markup
STYLES = re.compile(r"\x1b\[[\d;]*m")  # our own styles
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
Action = Callable[[], object]
Shown = Callable[[Action], str]


def read_all(descriptor: int) -> str:
    """Reads until the other side closes; must run while it writes, since a terminal's buffer is small."""
    data = b""
    try:
        while chunk := os.read(descriptor, 65536):
            data += chunk
    except OSError:  # Linux raises this when the other side is closed
        pass
    os.close(descriptor)
    return data.decode()


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Returns what an action writes to a terminal, on standard output and error."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "400")

    def shown(action: Action) -> str:
        controller, terminal = pty.openpty()
        tty.setraw(terminal)  # else \n becomes \r\n
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.append(read_all(controller)))
        reader.start()
        with os.fdopen(terminal, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            patch.setattr("sys.stderr", stream)
            action()
        reader.join()
        return output[0]

    return shown


@pytest.fixture
def actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Action]:
    """Everything that prints text from elsewhere."""
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))

    def minimind(*arguments: object) -> Action:
        def run() -> None:
            monkeypatch.setattr("sys.argv", ["minimind", *map(str, arguments)])
            assert main.main() == 0

        return run

    def fail() -> None:
        raise UserError(NAME)

    def crash() -> None:
        raise RuntimeError(NAME)

    summary = {"step": 1, "val/bits_per_byte": 2.0, "compressors": {NAME: 3.0}}
    samples = [{"prompt": TEXT, "continuation": f"{TEXT}\nand on"}]
    make_files(tmp_path, monkeypatch)
    return {
        "generate": minimind("generate", tmp_path, "--prompt", TEXT),
        "runs": minimind("runs"),
        "report": minimind("report", tmp_path / "sweeps" / "made-00000000"),
        "summary": lambda: print_summary(summary, samples, tmp_path / NAME),
        "user error": lambda: guarded(fail),
        "traceback": lambda: guarded(crash),
    }


def make_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a sweep with a failed run, and patches in a model that continues any text."""
    maker = Maker(root)
    for arm in ("plain", NAME):
        for seed in (1, 2, 3):
            maker.run(arm, seed, 2.0 + seed / 100, settings={"model.norm": "layer" if arm == NAME else "rmsnorm"})
    maker.run(f"{NAME} lost", 1, 2.0, state="failed", reason=NAME, settings={"model.norm": "layer"})
    maker.sweep("plain", question=TEXT)
    monkeypatch.setattr("minimind.library.stream", lambda *_, **__: iter(TEXT))
    monkeypatch.setattr("minimind.training.checkpoint.load_model", lambda *_: (None, None))
    monkeypatch.setattr("minimind.runs.checkpoints.checkpoint_of", lambda path: path)


@pytest.mark.parametrize("name", ["generate", "runs", "report", "summary", "user error", "traceback"])
def test_a_terminal_shows_escapes_and_a_pipe_gets_the_characters(
    name: str, actions: dict[str, Action], on_terminal: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = STYLES.sub("", on_terminal(actions[name]))
    assert not ACTING.search(shown), ascii(shown)
    assert SHOWN in shown, shown
    actions[name]()
    piped = "".join(capsys.readouterr())
    assert "\x1b]0;owned" in piped
    assert "\x1b[2J\x9b2J" in piped
    assert "\u202e[red]:smile:" in piped


def test_invisible_characters_are_escaped_unless_scripts_need_them() -> None:
    invisible = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"}
    signs = {
        "\u06dd",
        "\u070f",
        "\u08e2",
        "\u0890",
        "\u0891",
        "\U000110bd",
        "\U000110cd",
        *map(chr, range(0x600, 0x606)),
    }
    for character in invisible - {"\u200c", "\u200d"} - signs:
        assert visible(f"a{character}b") == f"a{ascii(character)[1:-1]}b"
    for text in ("👩\u200d👩\u200d👧", "می\u200cخواهم", "❤\ufe0f", "naïve 日本\u3000語", *signs):
        assert visible(text) == text


def test_generate_raw_writes_characters_unescaped(
    actions: dict[str, Action], on_terminal: Shown, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    actions["generate"]()
    assert capsys.readouterr().out == f"{TEXT}{TEXT}\n"
    monkeypatch.setattr("sys.argv", [*sys.argv, "--raw"])
    assert on_terminal(main.main) == f"{TEXT}{TEXT}\n"


def test_inspect_escapes_text_and_names(tmp_path: Path, on_terminal: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimind.data.config import TextConfig
    from minimind.data.prepare import prepare
    from minimind.tokenizer.config import TokenizerConfig

    folder = tmp_path / NAME
    for number in range(40):
        path = folder / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{NAME}[/foo] number {number}\n" * 5, encoding="utf-8")
    data = TextConfig(files=[str(tmp_path / "*" / "*.txt")])
    prepared = prepare(data, TokenizerConfig(vocab_size=300), folder)
    shards, tokenizer = prepared.sources[0].folder, prepared.tokenizer_path
    for expected, *arguments in ((f"{SHOWN}[/foo] number", shards, "--window", "0"), (SHOWN, tokenizer)):
        monkeypatch.setattr("sys.argv", ["minimind", "inspect", *map(str, arguments)])
        shown = STYLES.sub("", on_terminal(main.main))
        assert not ACTING.search(shown), ascii(shown)
        assert expected in shown, shown


def test_a_live_table_emits_only_the_control_codes_of_rich(on_terminal: Shown) -> None:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def live() -> None:
        console = VisibleConsole(stderr=True)
        with Live(console=console, auto_refresh=False) as shown:
            for number in range(2):
                table = Table("arm", NAME, title=TEXT, caption=NAME)
                table.add_row(TEXT, Text(f"{NAME} {number}"))
                shown.update(table, refresh=True)
        console.print(Text(TEXT, "bold"))
        console.rule(NAME)

    output = on_terminal(live)
    assert "\x1b[?25l" in output  # the cursor is hidden
    assert "\x1b[1A\x1b[2K" in output  # and the second table replaces the first
    assert not ACTING.search(re.sub(r"\r?\x1b\[(\?25[lh]|1A|2K)", "", STYLES.sub("", output)).replace("\r", ""))
    rows = [line for line in STYLES.sub("", output).split("\n") if line.startswith(("│", "┃"))]
    assert rows
    assert len({len(row) for row in rows}) == 1  # the layout accounts for the length of the escapes
    assert SHOWN in rows[0]


def test_the_progress_line_overwrites_itself(on_terminal: Shown) -> None:
    from minimind.training.callbacks.progress import Progress

    def progress() -> None:
        line = Progress()
        line.max_steps, line.start, line.first_step = 10, 0.0, 0
        line.show({"step": 1, "tokens": 10})
        line.show({"step": 2, "tokens": 20})

    assert [line[:9] for line in on_terminal(progress).split("\r\x1b[K")] == ["", "step 1/10", "step 2/10"]


def test_messages_of_the_mirror_are_escaped(
    on_terminal: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from minimind.tracking import mirror_process
    from minimind.tracking.config import WandbSettings

    monkeypatch.setattr(mirror_process, "why_offline", lambda: NAME)
    monkeypatch.setattr(mirror_process, "Mirror", lambda *_, **__: None)
    settings = WandbSettings("p", None, None, "train", [], None, 1.0)
    shown = on_terminal(lambda: mirror_process.open_mirror(RunFolder(tmp_path), settings, sys.stderr))
    assert f"offline ({SHOWN})" in shown
    out = io.StringIO()
    mirror_process.open_mirror(RunFolder(tmp_path), settings, out)
    assert f"offline ({NAME})" in out.getvalue()


def test_minimind_runs_on_a_real_terminal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / NAME)
    folder.path.mkdir(parents=True)
    folder.update_status(state="finished", step=1, tokens=1)
    controller, terminal = pty.openpty()
    tty.setraw(terminal)
    environment = {**os.environ, "MINIMIND_ROOT": str(tmp_path), "TERM": "xterm", "COLUMNS": "400"}
    process = subprocess.Popen(
        [sys.executable, "-m", "minimind.cli.main", "runs"],
        stdout=terminal,
        stderr=terminal,
        stdin=terminal,
        env=environment,
    )
    os.close(terminal)
    shown = STYLES.sub("", read_all(controller))
    assert process.wait(60) == 0
    assert not ACTING.search(shown)
    assert SHOWN in shown
