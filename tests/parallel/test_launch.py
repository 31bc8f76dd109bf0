"""Process trees of train.py: which failure is reported, and that no rank outlives the tree. Needs no torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minimind.parallel.launch import Outcome, run_tree
from minimind.utils.child import environment

RANK = """
import os, signal, sys, time
from pathlib import Path
from minimind.parallel.worker import TreeFolder, RankProcess
from minimind.utils.ranks import global_rank
folder = TreeFolder(Path(sys.argv[1]))
worker = RankProcess(folder)
rank = global_rank()
(folder.path / f"up{rank}").touch()
while len(list(folder.path.glob("up*"))) < 2:
    time.sleep(0.01)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # like a rank that hangs
"""

Script = Callable[[str], list[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes a worker command that runs `body` once both ranks have started."""

    def write(body: str) -> list[str]:
        path = tmp_path / "rank.py"
        path.write_text(RANK + textwrap.dedent(body))
        return [sys.executable, str(path)]

    return write


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name, value in environment().items():  # which the parent of the tree adds to its own environment
        monkeypatch.setenv(name, value)
    yield
    assert not list((tmp_path / "tmp").glob("minimind-tree-*"))


def tree(command: list[str]) -> Outcome:
    return run_tree("seed: 1\n", 0.0, 2, command)


def test_exception_is_reported_and_a_hanging_rank_is_killed(script: Script) -> None:
    outcome = tree(
        script("""
        if rank == 0:
            time.sleep(1000)
        try:
            raise ValueError("the seventh batch")
        except ValueError as error:
            worker.fail(error, 1)
    """)
    )
    assert outcome.failure is not None
    assert (outcome.signal, outcome.failure.rank, outcome.failure.code) == (0, 1, 1)
    assert outcome.failure.reason == "ValueError: the seventh batch"
    assert 'raise ValueError("the seventh batch")' in outcome.failure.text


def test_killed_rank_is_reported_rather_than_its_peers_lost_connection(script: Script) -> None:
    outcome = tree(
        script("""
        if rank == 1:
            print("the last line", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        while not folder.peer_has_died():
            time.sleep(0.01)
        try:
            raise ConnectionError("closed by peer")
        except ConnectionError as error:
            worker.fail(error, 1)
    """)
    )
    assert outcome.failure is not None
    assert outcome.failure.reason == "rank 1 was killed by SIGKILL"
    assert outcome.failure.text == "the last line\n"


def test_rank_may_finish_early(script: Script) -> None:
    assert tree(
        script("""
        if rank == 0:
            time.sleep(1.5)  # longer than POLL_S
        worker.finish(0)
    """)
    ) == Outcome(0, None)


def test_signal_reaches_the_ranks_and_is_reported(script: Script, tmp_path: Path) -> None:
    """Rank 1 sends it to this process, the parent; each rank finishes when it has received it."""
    command = script(f"""
        signal.signal(signal.SIGUSR1, lambda *_: Path({str(tmp_path)!r}, f"got{{rank}}").touch())
        Path({str(tmp_path)!r}, f"ready{{rank}}").touch()
        while rank == 1 and not Path({str(tmp_path)!r}, "ready0").exists():
            time.sleep(0.01)
        if rank == 1:
            os.kill(os.getppid(), signal.SIGUSR1)
        while not Path({str(tmp_path)!r}, f"got{{rank}}").exists():
            time.sleep(0.01)
        worker.finish(0)
    """)
    before = signal.getsignal(signal.SIGUSR1)
    assert tree(command) == Outcome(signal.SIGUSR1, None)
    assert signal.getsignal(signal.SIGUSR1) == before
    assert {path.name for path in tmp_path.glob("got*")} == {"got0", "got1"}


@pytest.mark.parametrize("death", ["killed", "second_ctrl_c"])
def test_no_rank_outlives_its_parent(death: str, script: Script, tmp_path: Path) -> None:
    command = script(f"""
        signal.signal(signal.SIGINT, lambda *_: Path({str(tmp_path)!r}, f"got{{rank}}").touch())
        Path({str(tmp_path)!r}, f"pid{{rank}}.tmp").write_text(str(os.getpid()))
        Path({str(tmp_path)!r}, f"pid{{rank}}.tmp").rename(Path({str(tmp_path)!r}, f"pid{{rank}}"))
        time.sleep(1000)
        time.sleep(1000)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from minimind.parallel.launch import run_tree; run_tree('', 0.0, 2, {command!r})"],
        stderr=subprocess.PIPE,
    )
    pid_files = [tmp_path / f"pid{rank}" for rank in range(2)]
    wait_until(lambda: all(path.exists() for path in pid_files))
    if death == "killed":
        parent.kill()
    else:
        parent.send_signal(signal.SIGINT)
        wait_until(lambda: len(list(tmp_path.glob("got*"))) == 2)
        parent.send_signal(signal.SIGINT)
    code = parent.wait(30)
    assert code == (-signal.SIGKILL if death == "killed" else 75), parent.communicate()
    wait_until(lambda: not any(is_alive(int(path.read_text())) for path in pid_files))
    for path in (tmp_path / "tmp").glob("minimind-tree-*"):  # no process was left to remove it
        subprocess.run(["rm", "-r", path], check=True)
    assert parent.stderr is not None
    parent.stderr.close()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
