"""The queue, with small processes in place of runs: limits, slots, locks, and a clean stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from minimind.config.auto import INHERITED
from minimind.runs.folder import RunFolder
from minimind.runs.lock import run_lock
from minimind.runs.metrics_file import append_rows
from minimind.runs.states import JobState
from minimind.sweep.launch import log_names
from minimind.sweep.queue import Job, Queue
from minimind.sweep.slots import Slots, visible_gpus
from minimind.sweep.table import SweepProgress, last_row, primary_metric, reason_of
from minimind.training.config import TrainerConfig
from minimind.utils.errors import ConfigError

PYTHON = [sys.executable, "-c", "import sys; exec(open(sys.argv[1]).read())"]
Make = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> Make:
    def make(name: str, script: str, devices: int = 1, accelerator: str = "auto") -> Job:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        trainer = TrainerConfig(devices=devices, accelerator=accelerator, max_steps=1)
        cfg = SimpleNamespace(trainer=trainer, objective=SimpleNamespace(primary=("val/chosen", "max")))
        plan = SimpleNamespace(cfg=cfg, folder=RunFolder(folder))
        return Job((name,), plan, script, tmp_path / "logs" / f"{name}.log")  # type: ignore[arg-type]

    return make


def run(jobs: list[Job], slots: Slots, on_poll: Callable[[], None] = lambda: None) -> list[str]:
    Queue(jobs, slots, PYTHON, lambda job: None).run(on_poll)
    return [job.state for job in jobs]


def test_a_failure_ends_only_its_own_job(job: Make, tmp_path: Path) -> None:
    jobs = [job("good", "print('fine')"), job("bad", "raise SystemExit('the reason')"), job("late", "print('fine')"),
            job("killed", "import os; os.kill(os.getpid(), 9)"), job("stopped", "raise SystemExit(75)")]  # fmt: skip
    assert run(jobs, Slots([], None)) == ["finished", "failed", "finished", "failed", "stopped"]
    assert reason_of(jobs[1]) == "the reason"
    assert reason_of(jobs[3]) == "killed by signal 9"
    assert jobs[0].log.read_text() == "fine\n"


def test_one_job_per_gpu(job: Make, tmp_path: Path) -> None:
    script = (
        f"import os, time; gpus = os.environ['CUDA_VISIBLE_DEVICES']; path = {str(tmp_path)!r} + '/gpu' + gpus\n"
        "os.close(os.open(path, os.O_CREAT | os.O_EXCL)); time.sleep(0.3); os.unlink(path); print(gpus)"
    )
    jobs = [job(f"job{i}", script) for i in range(4)] + [job("wide", script, devices=2)]
    assert run(jobs, Slots(["2", "5"], None)) == [JobState.FINISHED] * 5
    assert sorted(one.log.read_text().strip() for one in jobs[:4]) == ["2", "2", "5", "5"]
    assert set(jobs[4].log.read_text().strip().split(",")) == {"2", "5"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
def test_jobs_on_a_cpu_share_its_cores(job: Make) -> None:
    script = "import os, time; time.sleep(0.1); print(sorted(os.sched_getaffinity(0)))"
    jobs = [job("a", script), job("b", script)]
    assert run(jobs, Slots([], 2)) == [JobState.FINISHED] * 2
    if len(os.sched_getaffinity(0)) > 1:
        first, second = (set(eval(one.log.read_text())) for one in jobs)
        assert not first & second
        assert first | second == os.sched_getaffinity(0)


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 7")
    assert visible_gpus() == ["3", "7"]
    wide = Slots(["3", "7"], 1)  # one job at a time, with both GPUs
    slot = wide.acquire(2)
    assert slot is not None
    assert sorted(slot.gpus) == ["3", "7"]
    assert wide.acquire(1) is None
    wide.release(slot)
    assert wide.acquire(1) is not None
    shared = Slots(["3", "7"], 4)  # two jobs per GPU, idle GPUs first
    taken = [shared.acquire(1) for _ in range(5)]
    assert sorted(slot.gpus[0] for slot in taken if slot) == ["3", "3", "7", "7"]
    assert taken[4] is None
    with pytest.raises(ConfigError, match="must be at most the number of GPUs"):
        shared.acquire(3)
    crowded = Slots([], 5)
    crowded_slots = [crowded.acquire(1) for _ in range(5)]
    assert all(slot is not None and slot.cores for slot in crowded_slots) or not hasattr(os, "sched_getaffinity")


def test_jobs_run_in_parallel(job: Make, tmp_path: Path) -> None:
    script = (
        f"import pathlib, time; here = pathlib.Path({str(tmp_path)!r}) / f'at{{time.time_ns()}}'; here.touch()\n"
        f"for _ in range(200):\n    if len(list(pathlib.Path({str(tmp_path)!r}).glob('at*'))) > 1: break\n"
        "    time.sleep(0.05)\nelse: raise SystemExit('alone')"
    )
    assert run([job("a", script), job("b", script)], Slots([], 2)) == [JobState.FINISHED] * 2


def test_a_signal_before_a_job_has_a_handler_is_not_a_failure(job: Make) -> None:
    starting = job("starting", "import signal, time; print('up', flush=True); time.sleep(60)")

    sent = threading.Event()

    def interrupt() -> None:
        if not sent.is_set() and starting.log.is_file() and starting.log.read_text():
            sent.set()
            os.kill(os.getpid(), signal.SIGTERM)

    assert run([starting], Slots([], None), interrupt) == [JobState.STOPPED]


def test_a_run_that_another_sweep_locks_just_before_is_waited_for(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimind.sweep.queue.LOCK_POLL_S", 0.2)
    late = job("late", "")
    marker, lock = late.log.with_name("second"), late.plan.folder.lock
    held = run_lock(lock)
    late.frozen = (
        f"import pathlib; m = pathlib.Path({str(marker)!r})\nif not m.exists(): m.touch(); raise SystemExit(2)"
    )
    monkeypatch.setattr(
        "minimind.sweep.queue.Queue._locked_elsewhere", lambda queue, job: lock.is_file() and marker.exists()
    )
    held.__enter__()
    observed: list[str] = []

    def release() -> None:
        observed.append(late.state)
        if late.state == JobState.WAITING and lock.is_file():
            held.__exit__(None, None, None)

    assert run([late], Slots([], None), release) == [JobState.FINISHED]
    assert JobState.WAITING in observed


def test_ctrl_c_stops_running_jobs_cleanly_and_starts_no_other(job: Make, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    jobs = [job("first", script), job("second", script), job("third", script)]
    sent = threading.Event()

    def interrupt() -> None:
        if not sent.is_set() and all(one.log.is_file() and one.log.read_text() for one in jobs[:2]):
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    before = time.monotonic()
    assert run(jobs, Slots([], 2), interrupt) == [JobState.STOPPED] * 3
    assert time.monotonic() - before < 30
    assert not jobs[2].log.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_is_locked_elsewhere_is_waited_for(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimind.sweep.queue.LOCK_POLL_S", 0.2)
    held, free = job("held", "print('mine')"), job("free", "print('mine')")
    states: list[str] = []
    lock = run_lock(held.plan.folder.lock)
    lock.__enter__()

    def release_when_the_other_has_finished() -> None:
        states.append(held.state)
        if free.state == JobState.FINISHED and len(states) < 1000:
            states.extend([""] * 1000)
            lock.__exit__(None, None, None)

    assert run([held, free], Slots([], None), release_when_the_other_has_finished) == [
        JobState.FINISHED,
        JobState.FINISHED,
    ]
    assert JobState.WAITING in states


def test_the_newest_complete_row_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_text("".join(f'{{"step": {i}}}\n' for i in range(20_000)) + '{"step": 2')
    assert last_row(path) == {"step": 19_999}


def test_the_table_shows_text_literally(job: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Including what rich would parse as markup."""
    bad = job("bad", "raise SystemExit('[/why]')")
    bad.label = ("data.files=[/a.txt]", "1")
    progress = SweepProgress([bad], ["arm", "seed"])
    assert run([bad], Slots([], None)) == [JobState.FAILED]
    progress.console.print(progress.table())
    progress.print_failures()
    output = capsys.readouterr().err
    assert output.count("[/a.txt]") == 2
    assert "[/why]" in output


def test_log_names_are_valid_on_every_file_system(tmp_path: Path) -> None:
    labels = [("\x1b[2J/../日\ud800", "1"), ("日" * 200, "1"), ("日" * 200, "2")]
    names = log_names(labels)
    assert names[0] == "_2J_.._日_-1.log"
    assert len(set(names)) == 3
    for name in names:
        (tmp_path / name).touch()


def test_a_job_shows_its_primary_metric_or_else_its_loss(job: Make) -> None:
    one = job("one", "")
    assert primary_metric(one) == []
    for row, shown in (
        ({"step": 1, "train/loss": 2.5}, ["loss", "2.5000"]),
        ({"step": 2, "train/loss": 2.4, "val/loss": 2.3, "val/chosen": 0.75}, ["val/chosen", "0.75"]),
        ({"step": 3}, []),
    ):
        append_rows(one.plan.folder.metrics, [row])
        one.state = JobState.RUNNING
        assert primary_metric(one) == shown


def test_a_job_is_handed_what_auto_resolves_to(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INHERITED, '{"precision": "of an outer sweep"}')
    jobs = [job(name, f"import os; print(os.environ['{INHERITED}'])") for name in ("resolved", "unresolved")]
    jobs[0].auto = {"precision": "32-true"}
    assert run(jobs, Slots([], None)) == [JobState.FINISHED] * 2
    assert [one.log.read_text() for one in jobs] == [
        '[["auto", "auto", null, 1], {"precision": "32-true"}]\n', '[["auto", "auto", null, 1], {}]\n'
    ]  # fmt: skip
