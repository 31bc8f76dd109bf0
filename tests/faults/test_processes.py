"""Runs of several processes through the real command line: stopped and killed every way, and none the worse for it."""

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
MIXTURE = ["model.num_experts=2", "model.dropout=0.1", "trainer.micro_batch=2"]  # accumulation 2 in two processes
OWN_TREE = ["parallel=ddp", "trainer.devices=2"]
LISTEN = "0A"  # a state, in /proc/net/tcp


class Tree:
    """Processes of a run, started together; where they leave their pids is this tree's own TMPDIR."""

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
    """Waits until the run has done some steps in its present processes."""
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


def heard_by_others(processes: list[subprocess.Popen[bytes]], *, theirs: bool = True) -> list[str]:
    """The addresses, but for loopback ones, at which these processes and all they have started listen.

    Args:
        theirs: what the processes listen at themselves, and not only what they have started.
    """
    parents = {int(path.parent.name): stat_parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    family = {process.pid for process in processes}
    started: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in family | started} - started:
        started |= new
    mine = {link for pid in started | (family if theirs else set()) for link in open_files(pid)}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    addresses = [address_of(row[1]) for row in rows if row[3] == LISTEN and f"socket:[{row[9]}]" in mine]
    assert addresses, "gloo listens somewhere"
    return [str(address) for address in addresses if not ip_address(address).is_loopback]


def stat_parent(path: Path) -> int:
    try:
        return int(path.read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it ended just now
        return -1


def open_files(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.add(str(path.readlink()))
    return found


def address_of(written: str) -> str:
    """`0100007F:1F90` → `127.0.0.1`; four bytes at a time, the last first."""
    parts = bytes.fromhex(written.split(":")[0])
    address = ip_address(b"".join(parts[i : i + 4][::-1] for i in range(0, len(parts), 4)))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def slurm(folder: Path) -> list[dict[str, str]]:
    """The variables of two processes that srun started in a job array, with a stand-in for scontrol on PATH."""
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


def figures(folder: Path) -> list[dict[str, Any]]:
    timed = ("elapsed_s", "per_second", "mfu", "_fraction", "stall_s")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in read_rows(folder / "metrics.jsonl")]


def weights(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"step_{step:08d}" / "state.pt", weights_only=True)["state_dict"]


def test_two_processes_stopped_every_way_equal_a_run_that_never_was(start: Start, root: Path, tmp_path: Path) -> None:
    whole = start("whole", *MIXTURE, *OWN_TREE, "run.tag=whole")  # beside the other's first start: two trees at once
    arguments = ["ended", *MIXTURE, "data.num_workers=1"]  # which must outlive a signal to the whole group

    tree = start(*arguments, *OWN_TREE)  # SIGTERM to the parent only
    folder = after_more_steps(root, "ended")
    assert heard_by_others(tree.processes) == []
    tree.processes[0].terminate()
    codes, said = tree.wait()
    assert codes == [75], said
    assert said.count("Run the same command to continue") == 1
    assert "rank" not in said
    assert read_json(folder / "status.json")["reason"] == "SIGTERM"

    tree = start(*arguments, *OWN_TREE)  # SIGINT to all, as a terminal or a scheduler may
    after_more_steps(root, "ended")
    for pid in (tree.processes[0].pid, tree.pid(0), tree.pid(1)):
        os.kill(pid, signal.SIGINT)
    codes, said = tree.wait()
    assert codes == [75], said
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("preempted", "SIGINT")

    tree = start(*arguments, "run.requeue=true", variables=slurm(tmp_path))  # SIGUSR1 to one rank of srun's
    after_more_steps(root, "ended")
    assert heard_by_others(tree.processes) == []
    tree.processes[1].send_signal(signal.SIGUSR1)
    codes, said = tree.wait()
    assert codes == [75, 75], said
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4242_3\n"
    assert read_json(folder / "status.json")["reason"] == "SIGUSR1"

    tree = start(*arguments, *OWN_TREE)  # a rank is killed
    after_more_steps(root, "ended")
    os.kill(tree.pid(1), signal.SIGKILL)
    codes, said = tree.wait()
    assert codes == [1], said
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("failed", "rank 1 was ended by SIGKILL")
    assert "rank 1 was ended by SIGKILL" in said

    tree = start(*arguments, by=("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"))
    after_more_steps(root, "ended")
    assert heard_by_others(tree.processes, theirs=False) == []  # torchrun itself has a store for all to see
    codes, said = tree.wait()
    assert codes == [0], said
    assert said.count("The run is in") == 1
    assert len(list(root.glob("runs/ended-*"))) == 1

    codes, said = whole.wait()
    assert codes == [0], said
    (uncut,) = root.glob("runs/whole-*")
    assert figures(folder) == figures(uncut)
    assert [row["step"] for row in figures(folder)] == list(range(1, STEPS + 1))
    for name, weight in weights(uncut).items():
        assert torch.equal(weights(folder)[name], weight), name


def test_a_tree_begins_again_and_does_not_bring_back_what_is_lost(
    start: Start, root: Path, small_run: Path, small_arguments: list[str], tmp_path: Path
) -> None:
    """Who holds the lock is the parent, who renames the folders is rank 0."""
    short = ["trainer.max_steps=4", *OWN_TREE]
    lost = start("lost", *short)
    old = Path(shutil.copytree(small_run, folder_of([*small_arguments, *SETTINGS, "run.name=again", *short], root)))
    again = start("again", *short, "run.fresh=true")
    deadline = time.monotonic() + 60
    while not list(root.glob("runs/lost-*/lock.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    next(iter(root.glob("runs/lost-*"))).rename(tmp_path / "moved")
    codes, said = lost.wait()
    assert codes == [1], said
    assert "was renamed, deleted or replaced" in said
    assert "Traceback" not in said
    assert list(root.glob("runs/*lost*")) == []
    assert not (tmp_path / "moved" / "status.json").exists()
    codes, said = again.wait()
    assert codes == [0], said
    assert [row["step"] for row in read_rows(old / "metrics.jsonl")] == [1, 2, 3, 4]
    assert read_rows(Path(f"{old}.old-1") / "metrics.jsonl") == read_rows(small_run / "metrics.jsonl")
    assert sorted(path.name for path in root.glob(f"runs/*{old.name}*")) == [old.name, f"{old.name}.old-1"]


def test_the_number_of_processes_may_change_on_the_way(start: Start, root: Path) -> None:
    """1 → 2 → 1 processes, each stopped by its wall-clock budget: the losses of a run in one process."""
    short = ["trainer.max_steps=40", "trainer.validate_every_steps=20"]  # later, rounding has grown
    whole = start("steady", *short, "run.tag=steady")
    for arguments in ([], OWN_TREE):
        tree = start("changing", *short, *arguments, "run.max_minutes=0.001")
        codes, said = tree.wait()
        assert codes == [75], said
        assert "Stopped by run.max_minutes" in said
    for tree in (start("changing", *short), whole):
        codes, said = tree.wait()
        assert codes == [0], said
    one, other = (figures(next(iter(root.glob(f"runs/{name}-*")))) for name in ("steady", "changing"))
    assert [row["tokens"] for row in one] == [row["tokens"] for row in other]
    assert [row["train/loss"] for row in other] == pytest.approx([row["train/loss"] for row in one], rel=1e-4)


def test_an_exception_in_one_rank_is_the_one_shown(start: Start, root: Path, tmp_path: Path) -> None:
    """A callback that only rank 1's second step cannot bear."""
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
    codes, said = tree.wait()
    assert codes == [1], said
    (folder,) = root.glob("runs/broken-*")
    assert "ArithmeticError: only here" in said
    assert "Connection closed" not in said
    assert "raise ArithmeticError('only here')" in (folder / "traceback.txt").read_text()
    status = read_json(folder / "status.json")
    assert (status["state"], status["reason"]) == ("failed", "ArithmeticError: only here")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills_of_parent_or_ranks(start: Start, root: Path) -> None:
    steps, kills = 800, 20
    arguments = [*MIXTURE, *OWN_TREE, f"trainer.max_steps={steps}", "trainer.checkpoint_every_steps=5"]
    dice = random.Random(7)
    for number in range(kills):
        tree = start("struck", *arguments)
        after_more_steps(root, "struck", dice.randint(1, 45))
        victim = dice.choice(["parent", "rank 0", "rank 1"])
        pid = tree.processes[0].pid if victim == "parent" else tree.pid(int(victim[-1]))
        os.kill(pid, signal.SIGKILL)
        codes, said = tree.wait()
        assert codes == ([-signal.SIGKILL] if victim == "parent" else [1]), (number, victim, said)
        if victim == "parent":
            time.sleep(2)  # its ranks notice
    for name in ("struck", "spared"):
        codes, said = start(name, *arguments, "run.tag=" + ("null" if name == "struck" else name)).wait()
        assert codes == [0], said
    struck, spared = (next(iter(root.glob(f"runs/{name}-*"))) for name in ("struck", "spared"))
    assert figures(struck) == figures(spared)
    for name, weight in weights(spared, steps).items():
        assert torch.equal(weights(struck, steps)[name], weight), name
