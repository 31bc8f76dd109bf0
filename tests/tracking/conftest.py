"""Runs started through the real command line, in the background, and shared between tests."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from minimind.config.plan import plain
from minimind.config.schema import register
from minimind.runs.identity import run_hash
from minimind.runs.metrics_file import read_rows
from minimind.utils.paths import conf_dir

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SECRET = "sesame-open"  # in the environment of every run


class WandbLog:
    """One offline run read back by W&B's own reader."""

    def __init__(self, folder: Path) -> None:
        (log,) = folder.glob("*.wandb")
        package = Path(importlib.util.find_spec("wandb").submodule_search_locations[0])
        command = [package / "bin" / "wandb-core", "leet", "inspect", "--json", "--run-file", log, folder]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        self.records = [json.loads(line) for line in lines]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Records of one kind: run, history, summary, metric, exit, preempting …"""
        return [record.get(kind, {}) for record in self.records if record["type"] == kind]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Logged items in order; checks that each was logged under its own step."""
        items = [row["item"] for row in self.of("history")]
        assert [item["_step"] for item in items] == [item["step"] for item in items]
        return items

    def rows(self, like: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The history without media, and without steps that have only media."""
        names = {name for row in like for name in row}
        kept = [{name: value for name, value in item.items() if name in names} for item in self.history]
        return [row for row in kept if "tokens" in row]

    @property
    def config(self) -> dict[str, Any]:
        (run,) = self.of("run")
        return run["config"]["update"]


@pytest.fixture
def wandb_log() -> type[WandbLog]:
    return WandbLog


@pytest.fixture
def identity_of() -> Callable[[list[str]], str]:
    return lambda arguments: run_hash(composed(arguments))


@dataclass
class Scenario:
    """The results of running the same command once or several times."""

    folder: Path
    codes: list[int]
    messages: list[str]
    synced: list[list[dict[str, Any]]]  # rows of the clean run after an intermediate sync


class Runner:
    def __init__(self, root: Path, small: list[str]) -> None:
        self.root, self.small = root, small
        names = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
        self.environment = {**names, "MINIMIND_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "MY_TOKEN": SECRET}

    def start(self, arguments: list[str]) -> "subprocess.Popen[str]":
        command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
        return subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)  # fmt: skip

    def run_once(self, name: str, *arguments: str) -> Scenario:
        return self.run_repeatedly(name, [None], *arguments)

    def run_repeatedly(
        self, name: str, ends: list[tuple[int, int] | None], *arguments: str, sync_after: int = -1
    ) -> Scenario:
        """Runs the same command once per entry of `ends`: (step, signal to send then), or None to let it finish."""
        command = [*self.small, *arguments, f"run.name=scenario_{name}"]
        scenario = Scenario(self.root / "runs" / name, [], [], [])
        for number, end in enumerate(ends):
            process = self.start(command)
            if end is not None:
                step, signal_number = end
                self.wait_for(process, lambda step=step: self.step_of(name) >= step)
                process.send_signal(signal_number)
            scenario.messages.append(process.communicate(timeout=120)[1])
            scenario.codes.append(process.returncode)
            (scenario.folder,) = self.root.glob(f"runs/scenario_{name}-????????")
            if number == sync_after:
                assert "Not uploaded (no API key)" in self.sync(scenario.folder)
                (clean,) = scenario.folder.glob("wandb_sync/wandb/offline-run-*")
                scenario.synced.append(WandbLog(clean).rows(read_rows(scenario.folder / "metrics.jsonl")))
        return scenario

    def step_of(self, name: str) -> int:
        rows = [row for path in self.root.glob(f"runs/scenario_{name}-*/metrics.jsonl") for row in read_rows(path)]
        return rows[-1]["step"] if rows else 0

    def wait_for(self, process: "subprocess.Popen[str]", condition) -> None:
        deadline = time.time() + 90
        while process.poll() is None and time.time() < deadline and not condition():
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]

    def sync(self, *folders: Path) -> str:
        command = [sys.executable, "-m", "minimind.cli.main", "sync", *map(str, folders)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root, env=self.environment, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def composed(arguments: list[str]) -> dict[str, Any]:
    """The configuration of a command line, as plain types."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("train", overrides=[*arguments, "paths.root=/nowhere"])
    return plain(found)


LONG = ["trainer.max_steps=80", "logger=wandb"]


def uninterrupted(runner: Runner) -> Scenario:
    return runner.run_once(
        "uninterrupted", "logger=[local,wandb,csv,tensorboard]", "callbacks=[default,samples,memory,moe_load]",
        "callbacks.samples.every_steps=5", "logger.watch=all", "model.num_experts=2", "logger.wandb.tags=[a,b]",
        "logger.wandb.notes=why",
    )  # fmt: skip


def interrupted(runner: Runner) -> Scenario:
    ends = [(14, signal.SIGKILL), (34, signal.SIGKILL), (52, signal.SIGTERM), None]
    scenario = runner.run_repeatedly("interrupted", ends, *LONG, "logger=[wandb,csv,tensorboard]", sync_after=1)
    runner.sync(scenario.folder)
    return scenario


def service_killed(runner: Runner) -> Scenario:
    """W&B's own service is killed during the run."""
    options = ["callbacks=[default,samples,memory]", "callbacks.samples.every_steps=10", "logger.watch=all"]
    command = [*runner.small, *LONG, *options, "run.name=scenario_service_killed", "run.tag=service_killed"]
    process = runner.start(command)
    runner.wait_for(process, lambda: (service_of(process.pid) or 0) and runner.step_of("service_killed") > 0)
    os.kill(service_of(process.pid), signal.SIGKILL)
    messages = process.communicate(timeout=120)[1]
    (folder,) = runner.root.glob("runs/scenario_service_killed-????????")
    return Scenario(folder, [process.returncode], [messages], [])


UNWRITABLE = [*LONG, "run.tag=unwritable"]


def unwritable(runner: Runner) -> Scenario:
    """A file has the name of W&B's folder (permissions would not stop root)."""
    return runner.run_once("unwritable", *UNWRITABLE)


def multirun(runner: Runner) -> Scenario:
    process = runner.start(
        ["-m", *runner.small, "trainer.max_steps=4", "run.name=scenario_multirun", "seed=1,2,3", "logger=wandb"]
    )
    messages = process.communicate(timeout=200)[1]
    return Scenario(runner.root / "runs", [process.returncode], [messages], [])


def stopping(runner: Runner) -> Scenario:
    """No improvement is large enough; killed between the first validation (10) and the one that stops it (20)."""
    arguments = ["callbacks=[early_stopping]", "callbacks.early_stopping.min_delta=100", "trainer.max_steps=80",
                 "callbacks.early_stopping.patience=1"]  # fmt: skip
    return runner.run_repeatedly("stopping", [(14, signal.SIGKILL), None, None], *arguments)


SCENARIOS = [interrupted, multirun, stopping, uninterrupted, service_killed, unwritable]  # longest first


@pytest.fixture(scope="session")
def scenarios(root: Path, small_arguments: list[str], small_run: Path) -> Iterator[dict[str, "Future[Scenario]"]]:
    """Runs two scenarios at a time; needs the data that `small_run` has prepared."""
    runner = Runner(root, small_arguments)
    folder = root / "runs" / f"scenario_unwritable-{run_hash(composed([*small_arguments, *UNWRITABLE]))}"
    folder.mkdir(parents=True)
    (folder / "wandb").touch()
    with ThreadPoolExecutor(2) as pool:
        yield {scenario.__name__: pool.submit(scenario, runner) for scenario in SCENARIOS}


@pytest.fixture
def scenario(request: pytest.FixtureRequest, scenarios: dict[str, "Future[Scenario]"]) -> Scenario:
    return scenarios[request.param].result()


def service_of(pid: int) -> int | None:
    """wandb-core among the descendants of a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(") ")
        except OSError:  # the process has exited
            continue
        parents[int(stat.parent.name)] = (int(rest.split()[1]), name.partition("(")[2])
    for number, (parent, name) in parents.items():
        ancestor = parent
        while ancestor in parents and ancestor != pid:
            ancestor = parents[ancestor][0]
        if name == "wandb-core" and ancestor == pid:
            return number
    return None
