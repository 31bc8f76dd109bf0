"""One live process a run folder, on this machine and on others that share its disk."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minimind.runs import lock
from minimind.runs.lock import run_lock
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file; time runs a hundred times faster."""
    for name in ("BEAT_S", "LIFELESS_S"):
        monkeypatch.setattr(lock, name, getattr(lock, name) / 100)
    return tmp_path / "lock.json"


def of_another_host(path: Path, heartbeat: float) -> None:
    write_json(path, {"host": "gpu07", "pid": 123, "since": 0.0, "heartbeat": heartbeat})


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_lock(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path; from minimind.runs.lock import run_lock\n"
         f"with run_lock(Path({str(path)!r})): print('held', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on"), run_lock(path):
        pass
    holder.kill()
    holder.communicate()
    with run_lock(path):
        assert read_json(path)["pid"] == os.getpid()
    assert not path.exists()


def test_the_heart_beats(path: Path) -> None:
    with run_lock(path):
        first = read_json(path)
        assert first["host"] == socket.gethostname()
        deadline = time.monotonic() + 30
        while read_json(path)["heartbeat"] == first["heartbeat"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "run-lock" not in [thread.name for thread in threading.enumerate()]
    assert not path.exists()


def test_a_holder_on_another_host_that_beats_is_refused(path: Path) -> None:
    of_another_host(path, time.time())
    beating = threading.Timer(lock.LIFELESS_S / 3, of_another_host, (path, time.time() + 20))
    beating.start()
    with pytest.raises(UserError, match="process 123 on gpu07"), run_lock(path):
        pass
    beating.join()


@pytest.mark.parametrize("age", [5.0, -400.0])
def test_a_silent_one_is_watched_and_taken_over(path: Path, age: float, capfd: pytest.CaptureFixture[str]) -> None:
    """Also when its clock was ahead of ours."""
    of_another_host(path, time.time() - age)
    start = time.monotonic()
    with run_lock(path):
        assert time.monotonic() - start >= lock.LIFELESS_S
        assert read_json(path)["host"] == socket.gethostname()
    said = capfd.readouterr().err
    assert "watching for" in said
    assert "taken over from gpu07" in said


def test_one_long_silent_is_taken_over_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    of_another_host(path, time.time() - lock.STALE_S - 60)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("must not wait"))
    with run_lock(path):
        pass
    assert "watching" not in capfd.readouterr().err


def test_one_that_leaves_while_watched_is_not_waited_for(path: Path) -> None:
    of_another_host(path, time.time())
    threading.Timer(0.05, path.unlink).start()
    with run_lock(path):
        assert read_json(path)["pid"] == os.getpid()


def test_a_place_where_no_folder_can_be_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "file").touch()
    for name, why in (("nowhere", "link to .*gone, which is not there"), ("file", "file")):
        for place in (tmp_path / name / "lock.json", tmp_path / name / "run" / "lock.json"):
            with pytest.raises(UserError, match=f"must be a folder that can be written to, .*{why}"):
                run_lock(place).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


def test_the_lock_of_a_linked_folder_leaves_the_link(tmp_path: Path) -> None:
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big_disk")
    with run_lock(tmp_path / "run" / "lock.json"):
        assert (tmp_path / "big_disk" / "lock.json").is_file()
    assert (tmp_path / "run").is_symlink()
    assert list((tmp_path / "big_disk").iterdir()) == []


@pytest.mark.parametrize("name", ["lock.json", "lock.json.held"])
def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    write_json(run / "lock.json", {})
    other.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(other)
    with pytest.raises(UserError, match=f"{name} must not be a symbolic link"), run_lock(run / "lock.json"):
        pass
    assert not lock.is_held(run / "lock.json")
    assert other.read_text() == "mine"
