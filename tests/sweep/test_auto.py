"""`auto` is resolved once for all jobs of a sweep, without changing their identity."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from minimind.config.auto import INHERITED, device_request, inheritance, resolve_device
from minimind.config.build import stored_or_resolved
from minimind.runs.identity import run_hash
from minimind.sweep.launch import resolve_auto
from minimind.sweep.plan import SweepPlan
from minimind.sweep.slots import Slots
from minimind.training.config import TrainerConfig

Prepare = Callable[..., SweepPlan]


def test_one_process_resolves_it_for_all_jobs() -> None:
    cpu, odd = TrainerConfig(accelerator="cpu"), TrainerConfig(precision="16-mixed")
    cores = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else set()
    here = resolve_device(device_request(cpu))
    answers = resolve_auto([cpu, TrainerConfig(accelerator="cpu", num_threads=7), cpu, odd], cores)
    assert answers[0] == answers[2] == {**here, "num_threads": 1 if cores else here["num_threads"]}
    assert answers[1] == {**here, "num_threads": 7}
    assert torch.cuda.is_available() or answers[3] == {}  # the job will fail and report why
    assert resolve_auto([cpu], cores) == [{}]


def test_all_jobs_use_the_threads_of_the_slot_with_the_fewest_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    assert Slots([], 2).fewest_cores() == {0, 1}
    assert len(Slots([], 8).fewest_cores()) == 1
    assert Slots([], None).fewest_cores() == frozenset()
    assert Slots(["0", "1"], 4).fewest_cores() == frozenset()


def test_a_job_takes_what_it_is_handed_and_a_resumed_run_keeps_its_own(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, one), *_ = prepare("optim.lr=1e-3,1e-2", "trainer.accelerator=cpu").jobs
    cfg, config, folder = one.plan
    own = stored_or_resolved(cfg, {})
    handed = {"accelerator": "cpu", "precision": "bf16-true", "num_threads": 5}
    monkeypatch.setenv(INHERITED, inheritance(device_request(cfg.trainer), handed)[INHERITED])
    assert stored_or_resolved(cfg, {}) == {**own, **handed}
    assert stored_or_resolved(cfg, {**own, "precision": "32-true"})["precision"] == "32-true"
    assert folder.path.name.endswith(run_hash(config))  # of `auto` itself, not what it resolves to
    others = inheritance(device_request(replace(cfg.trainer, precision="32-true")), handed)[INHERITED]
    for stale in ("{}", "{bad", "[]", others):  # which the environment may have inherited
        monkeypatch.setenv(INHERITED, stale)
        assert stored_or_resolved(cfg, {}) == own
