"""The process tree of a rank, from the environment variables of torchrun and srun."""

from datetime import timedelta

import pytest

from minimind.parallel.environment import Tree, job_id, joined_tree, keep_to_loopback, requeue
from minimind.parallel.store import open_store
from minimind.utils.errors import UserError
from minimind.utils.ranks import global_rank

SRUN = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "gpu[03-04]"}  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> dict[str, str]:
    environment = dict(variables)
    monkeypatch.setattr("os.environ", environment)
    return environment


def test_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined_tree() is None
    set_environment(monkeypatch, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})  # a batch script with one task
    assert joined_tree() is None
    set_environment(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    assert joined_tree() is None


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {**SRUN, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})  # inside SLURM
    assert joined_tree() == Tree(4, 2)
    assert Tree(4, 2).num_nodes == 2
    assert global_rank() == 3


def test_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = set_environment(monkeypatch, SRUN)
    assert joined_tree() == Tree(8, 4)
    assert global_rank() == 5
    assert (environment["MASTER_ADDR"], environment["LOCAL_RANK"], environment["GROUP_RANK"]) == ("gpu03", "1", "1")


def test_ranks_of_one_node_listen_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one_node = {**SRUN, "SLURM_NNODES": "1", "MASTER_ADDR": "gpu03"}
    environment = set_environment(monkeypatch, one_node)
    joined_tree()
    keep_to_loopback()
    assert environment["MASTER_ADDR"] == "127.0.0.1"
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) in (("lo", "=lo"), ("lo0", "=lo0"))

    environment = set_environment(monkeypatch, {**one_node, "GLOO_SOCKET_IFNAME": "eth0"})
    joined_tree()
    keep_to_loopback()
    assert environment["GLOO_SOCKET_IFNAME"] == "eth0"

    environment = set_environment(monkeypatch, {**SRUN, "MASTER_ADDR": "10.0.0.3"})  # two nodes
    joined_tree()
    keep_to_loopback()
    assert environment["MASTER_ADDR"] == "10.0.0.3"
    assert "GLOO_SOCKET_IFNAME" not in environment


def test_several_nodes_refuse_a_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {**SRUN, "SLURM_PROCID": "0", "MASTER_ADDR": "localhost"})
    joined_tree()
    with pytest.raises(UserError, match="`MASTER_ADDR` must be an address at which the other nodes reach rank 0"):
        open_store(None, timedelta(seconds=5))


def test_job_steps_have_different_ports_and_ranks_of_a_step_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def port(**changes: str) -> str:
        environment = set_environment(monkeypatch, {**SRUN, **changes})
        joined_tree()
        return environment["MASTER_PORT"]

    assert port() == port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    assert len({port(SLURM_STEP_ID=str(step)) for step in range(8)}) == 8
    assert port(MASTER_PORT="1234") == "1234"


def test_failed_requeue_is_reported(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert job_id() is None
    set_environment(monkeypatch, {"SLURM_JOB_ID": "77", "PATH": "/nowhere"})
    requeue()
    assert "do it manually: scontrol requeue 77" in capfd.readouterr().err
