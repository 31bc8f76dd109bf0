"""Runs of several processes, stopped and killed in every way, equal uninterrupted ones."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import torch

from minimind.runs.metrics_file import read_rows
from minimind.utils.files import read_json

from .conftest import folder_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STEPS = 240
SETTINGS = [
    f"trainer.max_steps={STEPS}", f"trainer.validate_every_steps={STEPS // 2}", "trainer.log_every_steps=1",
    "trainer.checkpoint_every_steps=20", "trainer.precision=32-true",
]  # fmt: skip
MOE = ["model.num_experts=2", "model.dropout=0.1", "trainer.micro_batch=2"]  # 2 accumulation steps with two processes
OWN_TREE = ["parallel=ddp", "trainer.devices=2"]
LISTEN = "0A"  # socket state in /proc/net/tcp


class Tree:
    """Processes of a run, started together, with their own TMPDIR, where the ranks write their PIDs."""

    def __init__(self, root: Path, scratch: Path, variables: list[dict[str, str]], command: list[str]) -> None:
        self.root, self.scratch = root, scratch
        scratch.mkdir()
        common = {**os.environ, "MINIMIND_ROOT": str(root), "TMPDIR": str(scratch)}
        self.log = (scratch / "messages").open("w+")
        self.processes = [
            subprocess.Popen(
                [sys.executable, *command], env={**common, **own}, stdout=self.log, stderr=subprocess.STDOUT
            )
            for own in variables
        ]

    def pid(self, rank: int) -> int:
        (path,) = self.scratch.glob(f"minimind-tree-*/rank{rank}.pid")
        return int(path.read_text())

    def wait(self) -> tuple[list[int], str]:
        codes = [process.wait(100) for process in self.processes]
        self.log.seek(0)
        return codes, self.log.read()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        self.log.close()


Start = Callable[..., Tree]


@pytest.fixture
def start(root: Path, tmp_path: Path, small_arguments: list[str]) -> Iterator[Start]:
    trees: list[Tree] = []

    def begin(
        name: str, *arguments: str, variables: list[dict[str, str]] | None = None, by: tuple[str, ...] = ()
    ) -> Tree:
        command = [*by, str(REPOSITORY / "train.py"), *small_arguments, *SETTINGS, f"run.name={name}", *arguments]
        tree = Tree(root, tmp_path / f"tree{len(trees)}", variables or [{}], command)
        trees.append(tree)
        return tree

    yield begin
    for tree in trees:
        tree.end()


def after_more_steps(root: Path, name: str, more: int = 8) -> Path:
    """Wait until the current processes of the run have done some steps; returns the run folder."""
    started, before = time.time(), -1
    while time.time() < started + 60:
        for folder in root.glob(f"runs/{name}-*"):
            status = read_json(folder / "status.json") if (folder / "status.json").is_file() else {}
            if status.get("state") == "running" and (folder / "lock.json").is_file():
                rows = read_rows(folder / "metrics.jsonl")
                before = len(rows) if before < 0 else min(before, len(rows))
                if len(rows) >= before + more:
                    return folder
        time.sleep(0.02)
    raise AssertionError("no steps")


def public_addresses(processes: list[subprocess.Popen[bytes]], *, include_self: bool = True) -> list[str]:
    """Addresses other than loopback at which the processes and their descendants listen.

    Args:
        include_self: whether to include the processes themselves.
    """
    parents = {int(path.parent.name): stat_parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    family = {process.pid for process in processes}
    started: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in family | started} - started:
        started |= new
    sockets = {link for pid in started | (family if include_self else set()) for link in open_files(pid)}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    addresses = [address_of(row[1]) for row in rows if row[3] == LISTEN and f"socket:[{row[9]}]" in sockets]
    assert addresses, "gloo must listen"
    return [str(address) for address in addresses if not ip_address(address).is_loopback]


def stat_parent(path: Path) -> int:
    try:
        return int(path.read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has just exited
        return -1


def open_files(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.add(str(path.readlink()))
    return found


def address_of(text: str) -> str:
    """`0100007F:1F90` → `127.0.0.1`; words of four bytes, little-endian."""
    parts = bytes.fromhex(text.split(":")[0])
    address = ip_address(b"".join(parts[i : i + 4][::-1] for i in range(0, len(parts), 4)))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def slurm(folder: Path) -> list[dict[str, str]]:
    """Variables of two processes started by srun in a job array, with a fake scontrol on PATH."""
    (folder / "bin").mkdir()
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n')
    scontrol.chmod(0o755)
    common = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "4244", "SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_NODELIST": "gpu03", "SLURM_STEP_ID": str(os.getpid()), "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    return [{**common, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NODEID": "0"} for r in range(2)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    timed = ("elapsed_s", "per_second", "mfu", "_fraction", "stall_s")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in read_rows(folder / "metrics.jsonl")]


def weights(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"step_{step:08d}" / "state.pt", weights_only=True)["state_dict"]


def test_interrupted_run_of_two_processes_equals_an_uninterrupted_one(start: Start, root: Path, tmp_path: Path) -> None:
    reference = start("reference", *MOE, *OWN_TREE, "run.tag=reference")  # concurrent with the other run's start
    arguments = ["interrupted", *MOE, "data.num_workers=1"]  # the worker must survive a signal to the group

    tree = start(*arguments, *OWN_TREE)  # SIGTERM to the parent only
    folder = after_more_steps(root, "interrupted")
    assert public_addresses(tree.processes) == []
    tree.processes[0].terminate()
    codes, said = tree.wait()
    assert codes == [75], said
    assert said.count("Run the same command to continue") == 1
    assert "rank" not in said
    assert read_json(folder / "status.json")["reason"] == "SIGTERM"

    tree = start(*arguments, *OWN_TREE)  # SIGINT to all, as a terminal or a scheduler may
    after_more_steps(root, "interrupted")
    for pid in (tree.processes[0].pid, tree.pid(0), tree.pid(1)):
        os.kill(pid, signal.SIGINT)
    codes, output = tree.wait()
    assert codes == [75], output
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("preempted", "SIGINT")

    tree = start(*arguments, "run.requeue=true", variables=slurm(tmp_path))  # SIGUSR1 to one of srun's ranks
    after_more_steps(root, "interrupted")
    assert public_addresses(tree.processes) == []
    tree.processes[1].send_signal(signal.SIGUSR1)
    codes, output = tree.wait()
    assert codes == [75, 75], output
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4242_3\n"
    assert read_json(folder / "status.json")["reason"] == "SIGUSR1"

    tree = start(*arguments, *OWN_TREE)  # a rank is killed
    after_more_steps(root, "interrupted")
    os.kill(tree.pid(1), signal.SIGKILL)
    codes, output = tree.wait()
    assert codes == [1], output
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("failed", "rank 1 was killed by SIGKILL")
    assert "rank 1 was killed by SIGKILL" in output

    tree = start(*arguments, by=("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"))
    after_more_steps(root, "interrupted")
    assert public_addresses(tree.processes, include_self=False) == []  # torchrun's own store is public
    codes, output = tree.wait()
    assert codes == [0], output
    assert output.count("The run is in") == 1
    assert len(list(root.glob("runs/interrupted-*"))) == 1

    codes, output = reference.wait()
    assert codes == [0], output
    (expected,) = root.glob("runs/reference-*")
    assert metrics(folder) == metrics(expected)
    assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))
    for name, weight in weights(expected).items():
        assert torch.equal(weights(folder)[name], weight), name


def test_process_tree_starts_over_and_does_not_recreate_a_moved_folder(
    start: Start, root: Path, small_run: Path, small_arguments: list[str], tmp_path: Path
) -> None:
    """The parent holds the lock, and rank 0 renames the folders."""
    short = ["trainer.max_steps=4", *OWN_TREE]
    lost = start("lost", *short)
    old = Path(shutil.copytree(small_run, folder_of([*small_arguments, *SETTINGS, "run.name=again", *short], root)))
    again = start("again", *short, "run.fresh=true")
    deadline = time.monotonic() + 60
    while not list(root.glob("runs/lost-*/lock.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    next(iter(root.glob("runs/lost-*"))).rename(tmp_path / "moved")
    codes, output = lost.wait()
    assert codes == [1], output
    assert "was renamed, deleted or replaced" in output
    assert "Traceback" not in output
    assert list(root.glob("runs/*lost*")) == []
    assert not (tmp_path / "moved" / "status.json").exists()
    codes, output = again.wait()
    assert codes == [0], output
    assert [row["step"] for row in read_rows(old / "metrics.jsonl")] == [1, 2, 3, 4]
    assert read_rows(Path(f"{old}.old-1") / "metrics.jsonl") == read_rows(small_run / "metrics.jsonl")
    assert sorted(path.name for path in root.glob(f"runs/*{old.name}*")) == [old.name, f"{old.name}.old-1"]


def test_number_of_processes_may_change(start: Start, root: Path) -> None:
    """1 → 2 → 1 processes, each stopped by run.max_minutes: same losses as a run in one process."""
    short = ["trainer.max_steps=40", "trainer.validate_every_steps=20"]  # with more steps, rounding differences grow
    reference = start("steady", *short, "run.tag=steady")
    for arguments in ([], OWN_TREE):
        tree = start("changing", *short, *arguments, "run.max_minutes=0.001")
        codes, output = tree.wait()
        assert codes == [75], output
        assert "Stopped by run.max_minutes" in output
    for tree in (start("changing", *short), reference):
        codes, output = tree.wait()
        assert codes == [0], output
    one, other = (metrics(next(iter(root.glob(f"runs/{name}-*")))) for name in ("steady", "changing"))
    assert [row["tokens"] for row in one] == [row["tokens"] for row in other]
    assert [row["train/loss"] for row in other] == pytest.approx([row["train/loss"] for row in one], rel=1e-4)


def test_exception_in_one_rank_is_reported(start: Start, root: Path, tmp_path: Path) -> None:
    """A callback that fails only on rank 1 in the second step."""
    (tmp_path / "breaking.py").write_text(
        "import lightning.pytorch as pl\n"
        "class Breaking(pl.Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_rank == 1 and trainer.global_step == 2:\n"
        "            raise ArithmeticError('only here')\n"
    )
    path = f"{tmp_path}:{REPOSITORY}"
    tree = start(
        "broken", *OWN_TREE, "+callbacks.breaking._target_=breaking.Breaking", variables=[{"PYTHONPATH": path}]
    )
    codes, output = tree.wait()
    assert codes == [1], output
    (folder,) = root.glob("runs/broken-*")
    assert "ArithmeticError: only here" in output
    assert "Connection closed" not in output
    assert "raise ArithmeticError('only here')" in (folder / "traceback.txt").read_text()
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("failed", "ArithmeticError: only here")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills_of_parent_or_ranks(start: Start, root: Path) -> None:
    steps, kills = 800, 20
    arguments = [*MOE, *OWN_TREE, f"trainer.max_steps={steps}", "trainer.checkpoint_every_steps=5"]
    rng = random.Random(7)
    for number in range(kills):
        tree = start("killed", *arguments)
        after_more_steps(root, "killed", rng.randint(1, 45))
        victim = rng.choice(["parent", "rank 0", "rank 1"])
        pid = tree.processes[0].pid if victim == "parent" else tree.pid(int(victim[-1]))
        os.kill(pid, signal.SIGKILL)
        codes, output = tree.wait()
        assert codes == ([-signal.SIGKILL] if victim == "parent" else [1]), (number, victim, output)
        if victim == "parent":
            time.sleep(2)  # for its ranks to exit
    for name in ("killed", "undisturbed"):
        codes, output = start(name, *arguments, "run.tag=" + ("null" if name == "killed" else name)).wait()
        assert codes == [0], output
    killed, expected = (next(iter(root.glob(f"runs/{name}-*"))) for name in ("killed", "undisturbed"))
    assert metrics(killed) == metrics(expected)
    for name, weight in weights(expected, steps).items():
        assert torch.equal(weights(killed, steps)[name], weight), name
