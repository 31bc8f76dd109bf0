"""The queue with real processes that are no runs: so many at a time, each in its place, and a clean stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from minimind.runs.folder import RunFolder
from minimind.runs.lock import run_lock
from minimind.sweep import slots
from minimind.sweep.queue import FAILED, FINISHED, STOPPED, WAITING, Job, Queue
from minimind.sweep.slots import Slot, find_slots
from minimind.sweep.table import last_row, reason_of

PYTHON = [sys.executable, "-c", "import sys; exec(open(sys.argv[1]).read())"]
Make = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> Make:
    def make(name: str, script: str, devices: int = 1, accelerator: str = "auto") -> Job:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        cfg = SimpleNamespace(trainer=SimpleNamespace(devices=devices, accelerator=accelerator, max_steps=1))
        plan = SimpleNamespace(cfg=cfg, folder=RunFolder(folder))
        return Job((name,), plan, script, tmp_path / "logs" / f"{name}.log")  # type: ignore[arg-type]

    return make


def run(jobs: list[Job], places: list[Slot], on_glance: Callable[[], None] = lambda: None) -> list[str]:
    Queue(jobs, places, PYTHON, lambda job: None).run(on_glance)
    return [job.state for job in jobs]


def test_one_failure_ends_one_job(job: Make, tmp_path: Path) -> None:
    jobs = [job("good", "print('fine')"), job("bad", "raise SystemExit('the reason')"), job("late", "print('fine')"),
            job("shot", "import os; os.kill(os.getpid(), 9)"), job("stopped", "raise SystemExit(75)")]  # fmt: skip
    assert run(jobs, [Slot("CPU")]) == [FINISHED, FAILED, FINISHED, FAILED, STOPPED]
    assert reason_of(jobs[1]) == "the reason"
    assert reason_of(jobs[3]) == "killed by signal 9"
    assert jobs[0].log.read_text() == "fine\n"


def test_so_many_at_a_time_each_on_its_gpu(job: Make, tmp_path: Path) -> None:
    script = (
        f"import os, time; gpus = os.environ['CUDA_VISIBLE_DEVICES']; path = {str(tmp_path)!r} + '/gpu' + gpus\n"
        "os.close(os.open(path, os.O_CREAT | os.O_EXCL)); time.sleep(0.3); os.unlink(path); print(gpus)"
    )
    jobs = [job(f"job{i}", script) for i in range(4)] + [job("wide", script, devices=2)]
    assert run(jobs, [Slot("GPU 2", "2"), Slot("GPU 5", "5")]) == [FINISHED] * 5
    assert sorted(one.log.read_text().strip() for one in jobs[:4]) == ["2", "2", "5", "5"]
    assert set(jobs[4].log.read_text().strip().split(",")) == {"2", "5"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
def test_jobs_on_a_cpu_share_its_cores(job: Make) -> None:
    script = "import os, time; time.sleep(0.1); print(sorted(os.sched_getaffinity(0)))"
    places = find_slots(2, cpu_only=True)
    jobs = [job("a", script), job("b", script)]
    assert run(jobs, places) == [FINISHED] * 2
    if len(os.sched_getaffinity(0)) > 1:
        first, second = (set(eval(one.log.read_text())) for one in jobs)
        assert not first & second
        assert first | second == os.sched_getaffinity(0)


def test_slots_are_the_gpus_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 7")
    assert [slot.gpu for slot in find_slots(None, cpu_only=False)] == ["3", "7"]
    assert [slot.gpu for slot in find_slots(3, cpu_only=False)] == ["3", "7", "3"]
    assert [slot.name for slot in find_slots(None, cpu_only=True)] == ["CPU"]
    monkeypatch.setattr(slots, "visible_gpus", list)
    assert [slot.gpu for slot in find_slots(None, cpu_only=False)] == [None]


def test_ctrl_c_lets_each_job_end_well_and_begins_no_other(job: Make, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    jobs = [job("first", script), job("second", script), job("third", script)]
    asked = threading.Event()

    def ask() -> None:
        if not asked.is_set() and all(one.log.is_file() and one.log.read_text() for one in jobs[:2]):
            asked.set()
            os.kill(os.getpid(), signal.SIGINT)

    before = time.monotonic()
    assert run(jobs, [Slot("a"), Slot("b")], ask) == [STOPPED] * 3
    assert time.monotonic() - before < 30
    assert not jobs[2].log.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_someone_else_works_on_is_waited_for(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimind.sweep.queue.LOOK_AT_LOCK_S", 0.2)
    held, free = job("held", "print('mine')"), job("free", "print('mine')")
    states: list[str] = []
    lock = run_lock(held.plan.folder.lock)
    lock.__enter__()

    def release_when_the_other_is_done() -> None:
        states.append(held.state)
        if free.state == FINISHED and len(states) < 1000:
            states.extend([""] * 1000)
            lock.__exit__(None, None, None)

    assert run([held, free], [Slot("CPU")], release_when_the_other_is_done) == [FINISHED, FINISHED]
    assert WAITING in states


def test_the_newest_whole_row_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_text("".join(f'{{"step": {i}}}\n' for i in range(20_000)) + '{"step": 2')
    assert last_row(path) == {"step": 19_999}
