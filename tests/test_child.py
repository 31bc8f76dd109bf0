"""Child processes: their imports, signals forwarded exactly once, and exit after the parent's death."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimind.utils import child
from minimind.utils.child import Children, environment, python_module, search_path, signals_to, start
from minimind.utils.paths import PACKAGE


def test_modules_in_the_current_directory_are_not_imported(tmp_path: Path) -> None:
    """In an untrusted folder, neither a library's module nor ours may be imported from there."""
    for name in ("random", "argparse", "minimind", "hydra"):
        (tmp_path / f"{name}.py").write_text(f"open('imported_{name}', 'w').close()\n")
    done = subprocess.run(
        python_module("minimind.cli.main", "--help"), cwd=tmp_path, capture_output=True, text=True,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "from raw text to results" in done.stdout
    assert not list(tmp_path.glob("imported_*"))


def test_only_child_py_starts_python_modules_and_background_processes() -> None:
    """No other file uses `sys.executable` in a command, or `Popen`."""
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        called = [node.func for node in nodes if isinstance(node, ast.Call)]
        names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called}
        assert "Popen" not in names or path.name == "child.py", path
        lists = [node for node in nodes if isinstance(node, ast.List)]
        starts = [
            node for node in lists if any(isinstance(e, ast.Attribute) and e.attr == "executable" for e in node.elts)
        ]
        assert not starts or path.name == "child.py", path


def test_search_path_has_the_package_once(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = search_path()
    assert found == f"{PACKAGE.parent}{os.pathsep}/somewhere"
    monkeypatch.setenv("PYTHONPATH", found)
    assert search_path() == found


def test_child_has_its_own_session_and_log_and_the_parents_pid(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    script = "import os, sys; print(os.getsid(0) == os.getpid(), os.environ['MINIMIND_PARENT'], file=sys.stderr)"
    for _ in range(2):
        assert start([sys.executable, "-c", script], log=log).wait() == 0
    assert log.read_text() == f"True {os.getpid()}\n" * 2


class FakeProcess:
    """Records the signals it is sent."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.mark.parametrize("moment", ["during start", "after start"])
def test_signal_reaches_each_child_once(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    children, process = Children(), FakeProcess()

    def start(command: list[str]) -> FakeProcess:
        if moment == "during start":
            children.pass_on(signal.SIGTERM)
        return process

    monkeypatch.setattr(child, "start", start)
    children.start([])
    if moment == "after start":
        children.pass_on(signal.SIGTERM)
    assert process.signals == [children.received] == [signal.SIGTERM]
    children.pass_on(signal.SIGINT)
    children.pass_on(signal.SIGINT)  # the second one stops it immediately
    assert process.signals[1:] == [signal.SIGINT] * 2


def test_signals_to_restores_the_handlers() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    received: list[int] = []
    with signals_to(received.append):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert received == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_child_can_handle_the_signal_sent_after_its_parents_death(tmp_path: Path) -> None:
    waiting = (
        "import signal, sys, time; from pathlib import Path; from minimind.utils.child import end_with_parent\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path({str(tmp_path / 'ended')!r}).touch()))\n"
        "end_with_parent(signal.SIGTERM); print('up', flush=True); time.sleep(60)"
    )
    script = f"import sys; from minimind.utils.child import start\nstart([sys.executable, '-c', {waiting!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
    deadline = time.monotonic() + 30
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
