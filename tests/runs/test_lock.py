"""One live process per run folder, on this machine and on others that share its disk."""

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
    """A lock file, with intervals a hundred times shorter."""
    for name in ("HEARTBEAT_S", "SILENT_S"):
        monkeypatch.setattr(lock, name, getattr(lock, name) / 100)
    return tmp_path / "lock.json"


def write_foreign_lock(path: Path, heartbeat: float) -> None:
    write_json(path, {"host": "gpu07", "pid": 123, "since": 0.0, "heartbeat": heartbeat})


def test_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
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


def test_heartbeat(path: Path) -> None:
    with run_lock(path):
        first = read_json(path)
        assert first["host"] == socket.gethostname()
        deadline = time.monotonic() + 30
        while read_json(path)["heartbeat"] == first["heartbeat"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "run-lock" not in [thread.name for thread in threading.enumerate()]
    assert not path.exists()


def test_live_holder_on_another_host_is_refused(path: Path) -> None:
    write_foreign_lock(path, time.time())
    heartbeat = threading.Timer(lock.SILENT_S / 3, write_foreign_lock, (path, time.time() + 20))
    heartbeat.start()
    with pytest.raises(UserError, match="process 123 on gpu07"), run_lock(path):
        pass
    heartbeat.join()


@pytest.mark.parametrize("age", [5.0, -400.0])
def test_silent_holder_is_watched_and_taken_over(path: Path, age: float, capfd: pytest.CaptureFixture[str]) -> None:
    """Even if its clock is ahead of ours."""
    write_foreign_lock(path, time.time() - age)
    start = time.monotonic()
    with run_lock(path):
        assert time.monotonic() - start >= lock.SILENT_S
        assert read_json(path)["host"] == socket.gethostname()
    output = capfd.readouterr().err
    assert "to see whether it still is" in output
    assert "taking over from gpu07" in output


def test_stale_lock_is_taken_over_immediately(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_foreign_lock(path, time.time() - lock.STALE_S - 60)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("must not wait"))
    with run_lock(path):
        pass
    assert "waiting" not in capfd.readouterr().err


def test_waiting_ends_when_the_lock_file_is_removed(path: Path) -> None:
    write_foreign_lock(path, time.time())
    threading.Timer(0.05, path.unlink).start()
    with run_lock(path):
        assert read_json(path)["pid"] == os.getpid()


def test_impossible_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "file").touch()
    for name, reason in (("nowhere", "link to .*gone, which does not exist"), ("file", "file")):
        for path in (tmp_path / name / "lock.json", tmp_path / name / "run" / "lock.json"):
            with pytest.raises(UserError, match=f"must be a writable folder, .*{reason}"):
                run_lock(path).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


def test_lock_of_a_linked_folder_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big_disk")
    with run_lock(tmp_path / "run" / "lock.json"):
        assert (tmp_path / "big_disk" / "lock.json").is_file()
    assert (tmp_path / "run").is_symlink()
    assert list((tmp_path / "big_disk").iterdir()) == []


@pytest.mark.parametrize("name", ["lock.json", "lock.json.held"])
def test_linked_lock_file_is_refused(tmp_path: Path, name: str) -> None:
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
