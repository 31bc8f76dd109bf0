"""Every command reads the run folders, checkpoints and shards of earlier versions (made by make_fixtures.py)."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from minimind.cli.main import main
from minimind.data.shards import TokenStream
from minimind.runs.metrics_file import read_rows
from minimind.tokenizer.bpe import BPE
from minimind.utils.files import read_json

VERSIONS = sorted((Path(__file__).parent / "fixtures").iterdir())
TOKENIZER_THEN = ["tokenizer.reserved=[]", "tokenizer.split_digits=false"]  # what was added later, as it was
MORE_STEPS = 24  # more than the 20 of the finished run
RunCommand = Callable[..., str]


@dataclass(frozen=True)
class Old:
    """A copy of an old version's files, used as MINIMIND_ROOT."""

    root: Path

    @property
    def expected(self) -> dict[str, Any]:
        return read_json(self.root / "expected.json")

    @property
    def dense(self) -> Path:
        """A finished run."""
        return self._run("dense")

    @property
    def moe(self) -> Path:
        """An MoE run with dropout, gradient accumulation and Muon that was stopped by SIGTERM."""
        return self._run("moe")

    def _run(self, name: str) -> Path:
        (folder,) = self.root.glob(f"runs/{name}-????????")
        return folder


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def old(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Old:
    """For commands that only read."""
    return Old(shutil.copytree(version, tmp_path_factory.mktemp("old") / "root"))


@pytest.fixture
def writable(version: Path, tmp_path: Path) -> Old:
    """For runs that are resumed."""
    return Old(shutil.copytree(version, tmp_path / "root"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `minimind …` in this process, with an old root, and returns its output."""

    def run(old: Old, *arguments: str) -> Any:
        monkeypatch.setenv("MINIMIND_ROOT", str(old.root))
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.chdir(old.root)
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["minimind", *arguments])
        capsys.readouterr()
        code = main()
        output = capsys.readouterr()
        assert code == 0, output.out + output.err
        return output

    return run


@pytest.fixture
def run_command(old: Old, run: Callable[..., Any]) -> RunCommand:
    return lambda *arguments: run(old, *arguments).out


def test_list(old: Old, run_command: RunCommand) -> None:
    output = run_command("runs")
    states = {line.split()[1]: line.split()[3] for line in output.splitlines() if "│" in line and "-" in line}
    assert states[old.dense.name] == "finished"
    assert states[old.moe.name] == "preempted"
    assert len(states) == 6


def test_repeating_the_command_shows_the_finished_run(old: Old, run_command: RunCommand) -> None:
    output = run_command("train", *old.expected["commands"]["dense"], *TOKENIZER_THEN)
    assert "This run is finished" in output
    assert old.dense.name in output


def test_evaluate(old: Old, run_command: RunCommand) -> None:
    before = old.expected["evaluation"]
    shutil.rmtree(old.dense / "evaluations")  # the new evaluation has the same name
    run_command("evaluate", f"checkpoint=runs/{old.dense.name}")
    (now,) = (read_json(path) for path in old.dense.glob("evaluations/*.json"))
    same = ("tokens", "bytes", "documents", "checkpoint", "sequence_length", "precision")
    assert {key: now[key] for key in same} == {key: before[key] for key in same}
    metrics = [key for key in before if key.startswith("val/")]
    assert [now[key] for key in metrics] == pytest.approx([before[key] for key in metrics], rel=1e-5)


def test_generate(old: Old, run_command: RunCommand) -> None:
    generated = old.expected["generate"]
    assert run_command("generate", f"runs/{old.dense.name}", *generated["options"]) == generated["text"]
    (checkpoint,) = old.moe.glob("checkpoints/step_*")
    assert run_command("generate", str(checkpoint), "--prompt", "ba do", "--max-new-tokens", "8").startswith("ba do")


def test_inspect(old: Old, run_command: RunCommand) -> None:
    assert "1 of hidden size 8" in run_command("inspect", f"runs/{old.dense.name}")
    assert "2 of 4 experts" in run_command("inspect", f"runs/{old.moe.name}")
    assert "288 tokens" in run_command("inspect", f"runs/{old.dense.name}/tokenizer.json")
    assert "Window 0" in run_command("inspect", "shards", "--window", "0")


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_export(old: Old, run_command: RunCommand, name: str) -> None:
    run_command("export", f"runs/{getattr(old, name).name}", "--to", f"exported/{name}")
    assert (old.root / "exported" / name / "model.safetensors").is_file()


def test_report(old: Old, run_command: RunCommand) -> None:
    (sweep,) = old.root.glob("sweeps/norm-*")
    assert "layernorm" in run_command("report", f"sweeps/{sweep.name}")
    assert (sweep / "report.md").is_file()
    arms = [f"runs/{path.name}" for path in sorted(old.root.glob("runs/arm-*"))]
    assert "norm=layernorm" in run_command("report", *arms)


def test_sync(old: Old, run_command: RunCommand) -> None:
    assert "4 rows up to step 20" in run_command("sync", f"runs/{old.dense.name}")


def test_shards_hold_the_same_tokens(old: Old) -> None:
    bpe = BPE.load(old.root / "shards" / "tokenizer.json")
    records = [json.loads(line)["text"] for line in (old.root / "made.jsonl").read_text("utf-8").splitlines()]
    read = []
    for split, expected in old.expected["shards"].items():
        stream = TokenStream(old.root / "shards" / split)
        ids = stream.read(0, len(stream)).tolist()
        assert len(ids) == expected["tokens"]
        assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == expected["sha256"]
        read += [bpe.decode(stream.document(number).tolist()) for number in range(stream.num_documents)]
    assert sorted(read) == sorted(records)


def test_a_resumed_run_ends_like_an_uninterrupted_one(run: Callable[..., Any], writable: Old, version: Path) -> None:
    old, output = writable, run(writable, "train", *writable.expected["commands"]["moe"]).err
    before, now = (read_rows(Old(root).moe / "metrics.jsonl") for root in (version, old.root))
    assert "Resuming" in output
    assert now[: len(before)] == before
    whole = old.expected["whole"]
    assert now[-1]["step"] == whole["step"]
    assert read_json(old.moe / "status.json")["state"] == "finished"
    exact = ("tokens", "train/lr", "train/real_token_fraction")
    assert {key: now[-1][key] for key in exact} == {key: whole[key] for key in exact}
    for key in ("train/loss", "val/loss", "val/bits_per_byte"):
        assert now[-1][key] == pytest.approx(whole[key], rel=1e-3), key  # recorded on another processor
    # where a token may be routed to other experts, which changes this more
    assert now[-1]["moe/balance_loss"] == pytest.approx(whole["moe/balance_loss"], rel=2e-2)


def test_a_finished_run_can_be_extended(run: Callable[..., Any], writable: Old) -> None:
    output = run(writable, "train", f"run.resume=runs/{writable.dense.name}", f"trainer.max_steps={MORE_STEPS}",
                 f"paths.root={writable.root}", f"paths.cache={writable.root / 'cache'}")  # fmt: skip
    assert f"Resuming {writable.dense} from step 20" in output.err
    assert [row["step"] for row in read_rows(writable.dense / "metrics.jsonl")] == [5, 10, 15, 20, MORE_STEPS]


def test_a_new_run_can_start_from_old_weights(run: Callable[..., Any], writable: Old) -> None:
    run(writable, "train", *writable.expected["commands"]["dense"], "tokenizer=file",
        "tokenizer.path=shards/tokenizer.json", "run.name=child", f"init_from=runs/{writable.dense.name}",
        "trainer.max_steps=1", "schedule.warmup_steps=0", "optim.lr=1e-9")  # fmt: skip
    (child,) = writable.root.glob("runs/child-*")
    summary = read_json(child / "summary.json")
    assert summary["val/loss"] == pytest.approx(writable.expected["evaluation"]["val/loss"], rel=1e-4)


def test_a_checkpoint_holds_only_tensors_and_plain_types(old: Old) -> None:
    (file,) = old.dense.glob("checkpoints/step_*/state.pt")
    assert torch.load(file, weights_only=True)["global_step"] == 20
