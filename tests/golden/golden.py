"""Verifies that a code change does not change what training computes, bit for bit, on one machine:

    git worktree add /tmp/before <commit>
    python tests/golden/golden.py record before.json --source /tmp/before
    python tests/golden/golden.py compare before.json       (exit code 1: something differs, and is listed)

`record` trains every run of `golden_set.py` with the train.py of `--source` (default: this checkout) in a temporary
root, and stores what `measured.py` extracts from their folders; `compare` does the same and compares it with the file.
Bits differ between processors, torch versions and Python versions (whose standard library is the default run's text),
so a file from another machine is refused (exit code 2) unless `--anyway` is given. Not part of the test suite; takes
three minutes on two free cores.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from golden_set import GOLDEN_RUNS, GoldenRun
from made_text import write_corpora
from measured import TIMES, differences, json_lines, measured, sha256_of

CHECKOUT = Path(__file__).resolve().parent.parent.parent
AT_A_TIME = 2
WAIT_S = 600
PREEMPTED = 75


class Failed(Exception):
    """A golden run failed."""


def machine() -> dict[str, Any]:
    """Everything other than the code that bits may depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "processor": cpu.get("model name", platform.machine()),
        "model": [cpu.get(key) for key in ("vendor_id", "cpu family", "model", "stepping")],
        "flags": hashlib.sha256(cpu.get("flags", "").encode()).hexdigest()[:12],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "tokenizers", "lightning")},
    }


def commit_of(source: Path) -> str:
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class Trainer:
    """Runs golden runs with the code of one checkout, each in `root/<name>`."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root = source.resolve(), root
        if not (self.source / "train.py").is_file():
            raise Failed(f"--source must be a checkout of MiniMind, but {source} has no train.py.")
        found = subprocess.run(
            [sys.executable, "-c", "import minimind; print(minimind.__file__)"],
            env=self._environment(root), cwd=root, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        if not Path(found).is_relative_to(self.source):
            raise Failed(f"The code in {source} must be the one imported, but {found} is.")

    def _environment(self, folder: Path) -> dict[str, str]:
        """Idle threads sleep instead of spinning, because two runs share the cores."""
        return {**os.environ, "MINIMIND_ROOT": str(folder), "PYTHONPATH": str(self.source), "WANDB_MODE": "offline",
                "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip

    def train(self, run: GoldenRun) -> dict[str, Any]:
        """Train one golden run and return what is measured in its run folder, or in all run folders of a multirun."""
        folder = self.root / run.name
        folder.mkdir()
        write_corpora(folder)
        if run.stopped_at is not None:
            self._stop(run, folder)
        self._command(folder, "train.py", *run.overrides)
        found = {path: measured(path) for path in sorted((folder / "runs").iterdir())}
        if run.evaluated:
            (path,) = found
            self._command(folder, "evaluate.py", f"checkpoint={path}")
            found = {path: measured(path)}
        if len(found) == 1:
            (folder / "run").symlink_to(next(iter(found)))  # a name without the hash, for runs that read this folder
        sweeps = sorted(path.name for path in folder.glob("sweeps/*-????????"))
        return {"folders": {path.name: entry for path, entry in found.items()}, "sweeps": sweeps}

    def _start(self, folder: Path, program: str, *arguments: str) -> "subprocess.Popen[str]":
        with (folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, str(self.source / program), *arguments], cwd=folder, env=self._environment(folder),
                stdout=output, stderr=output, text=True,
            )  # fmt: skip

    def _command(self, folder: Path, program: str, *arguments: str, expected: int = 0) -> None:
        self._end(folder, self._start(folder, program, *arguments), expected)

    def _end(self, folder: Path, process: "subprocess.Popen[str]", expected: int) -> None:
        try:
            code = process.wait(WAIT_S)
        finally:
            process.kill()
        if code != expected:
            output = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise Failed("\n".join([f"exit code {code} where {expected} was expected:", *output]))

    def _stop(self, run: GoldenRun, folder: Path) -> None:
        """Send SIGTERM after step `run.stopped_at`; the exact step must not affect the result."""
        process = self._start(folder, "train.py", *run.overrides)
        while process.poll() is None:
            rows = [row for path in folder.glob("runs/*/metrics.jsonl") for row in json_lines(path)]
            if rows and rows[-1]["step"] >= (run.stopped_at or 0):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        self._end(folder, process, PREEMPTED)


def train_all(source: Path, names: list[str]) -> dict[str, Any]:
    """Train the named runs and return their results by name."""
    with tempfile.TemporaryDirectory(prefix="golden-") as root, ThreadPoolExecutor(AT_A_TIME) as pool:
        trainer = Trainer(source, Path(root))
        futures: dict[str, Future[dict[str, Any]]] = {}

        def entry_of(run: GoldenRun) -> dict[str, Any]:
            began = time.monotonic()
            try:
                if run.after is not None:
                    futures[run.after].result()
                entry = trainer.train(run)
                print(f"  {run.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                return {"overrides": list(run.overrides), **entry}
            except Failed as error:
                return {"overrides": list(run.overrides), "failed": str(error)}

        for run in GOLDEN_RUNS:  # runs that others read come before them
            if run.name in names:
                futures[run.name] = pool.submit(entry_of, run)
        return {name: future.result() for name, future in futures.items()}


def train_and_hash(source: Path, names: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    runs = train_all(source, names)
    for entry in runs.values():
        for folder in entry.get("folders", {}).values():
            folder["sha256"] = {part: sha256_of(folder[part]) for part in ("weights", "moments", "rows", "summary")}
    print(f"{len(runs)} golden runs in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {"machine": machine(), "commit": commit_of(source), "not_compared": sorted(TIMES), "runs": runs}


def problems(runs: dict[str, Any]) -> dict[str, list[str]]:
    """Problems of each run by name: it failed, or its result differs from that of its uninterrupted twin."""
    found = {name: [entry["failed"]] for name, entry in runs.items() if "failed" in entry}
    for run in GOLDEN_RUNS:
        if run.same_as is None or not {run.name, run.same_as} <= runs.keys() - found.keys():
            continue
        whole, resumed = (next(iter(runs[name]["folders"].values())) for name in (run.same_as, run.name))
        if lines := differences(whole, resumed):
            found[run.name] = [f"differs from {run.same_as}: {line}" for line in lines]
    return found


def differences_of(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two results of one golden run, one line each."""
    folders, others = before.get("folders", {}), now.get("folders", {})
    found = differences({k: v for k, v in before.items() if k != "folders"},
                        {k: v for k, v in now.items() if k != "folders"})  # fmt: skip
    if list(folders) != list(others):
        found.append(f"folder: {', '.join(folders)} → {', '.join(others)}")
    for (name, old), new in zip(folders.items(), others.values(), strict=False):
        found += [f"{name}: {line}" for line in differences(old, new) if not line.startswith("sha256")]
    return found


def show(runs: dict[str, Any]) -> None:
    for name, entry in runs.items():
        for folder, parts in entry.get("folders", {}).items():
            summary, sha256 = parts["summary"], parts["sha256"]
            print(f"{name:15} {folder:22} train/loss {summary['train/loss']:.4f} val/loss {summary['val/loss']:.4f} "
                  f"weights {sha256['weights'][:8]} rows {sha256['rows'][:8]}")  # fmt: skip


def print_problems(found: dict[str, list[str]]) -> None:
    for name, lines in found.items():
        print(f"{name}:")
        for line in lines:
            print(f"  {line}")


def record(file: Path, source: Path, names: list[str]) -> int:
    if file.exists():
        print(f"{file} must not exist: a record is never overwritten.", file=sys.stderr)
        return 2
    new = train_and_hash(source, names)
    file.write_text(json.dumps(new, indent=1, ensure_ascii=False), encoding="utf-8")
    show(new["runs"])
    found = problems(new["runs"])
    print_problems(found)
    return 1 if found else 0


def compare(file: Path, source: Path, names: list[str], *, anyway: bool) -> int:
    before = json.loads(file.read_text(encoding="utf-8"))
    here = machine()
    if differing := [key for key in here if here[key] != before["machine"].get(key)]:
        listed = ", ".join(f"{key} ({before['machine'].get(key)} there, {here[key]} here)" for key in differing)
        print(f"{file} must have been recorded on this machine, but differs in {listed}.", file=sys.stderr)
        if not anyway:
            return 2
    names = [name for name in names if name in before["runs"]]
    new = train_and_hash(source, names)
    found = problems(new["runs"])
    for name in names:
        if name not in found and (lines := differences_of(before["runs"][name], new["runs"][name])):
            found[name] = lines
    print_problems(found)
    print(f"{len(names) - len(found)} of {len(names)} golden runs are equal bit for bit: "
          f"{before['commit'][:12]} and {new['commit'][:12]}.")  # fmt: skip
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path, help="JSON file, kept outside the repository")
    parser.add_argument("--source", type=Path, default=CHECKOUT, metavar="DIR", help="the checkout to run")
    parser.add_argument(
        "--anyway", action="store_true", help="compare even if the file was recorded on another machine"
    )
    every = [run.name for run in GOLDEN_RUNS]
    parser.add_argument("--only", nargs="+", default=every, choices=every, metavar="RUN", help=", ".join(every))
    arguments = parser.parse_args()
    needed = {run.after for run in GOLDEN_RUNS if run.name in arguments.only}
    names = [name for name in every if name in arguments.only or name in needed]
    try:
        if arguments.action == "record":
            return record(arguments.file, arguments.source, names)
        return compare(arguments.file, arguments.source, names, anyway=arguments.anyway)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
