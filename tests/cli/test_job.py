"""A multirun passes its signals on to the current job, which stops on its own."""

import signal
import sys
from pathlib import Path

import pytest

from minimind.cli import train
from minimind.utils.child import Children


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_jobs", Children())


def test_a_signal_is_passed_on_and_no_further_job_starts(tmp_path: Path) -> None:
    child = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(75))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(100)"
    )
    assert train.run_job([sys.executable, "-c", child]) == 75
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train.run_job([sys.executable, "-c", f"open({str(tmp_path / 'started')!r}, 'w')"]) == 75
    assert not (tmp_path / "started").exists()


def test_a_killed_job_counts_as_failed() -> None:
    assert train.run_job([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"]) == 1
    assert train.run_job([sys.executable, "-c", "raise SystemExit(2)"]) == 2
