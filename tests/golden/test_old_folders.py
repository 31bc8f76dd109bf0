"""Run folders, checkpoints and shards that earlier versions wrote (make_fixtures.py) are read by every verb."""

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
MORE_STEPS = 24  # than the 20 of the finished run
Verb = Callable[..., str]


@dataclass(frozen=True)
class Old:
    """A copy of what a version left behind, as the root of everything."""

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
        """A mixture of experts with dropout, accumulation and Muon, which SIGTERM stopped on its way."""
        return self._run("moe")

    def _run(self, name: str) -> Path:
        (folder,) = self.root.glob(f"runs/{name}-????????")
        return folder


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def old(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Old:
    """For the verbs that only read."""
    return Old(shutil.copytree(version, tmp_path_factory.mktemp("old") / "root"))


@pytest.fixture
def mine(version: Path, tmp_path: Path) -> Old:
    """For a run that goes on."""
    return Old(shutil.copytree(version, tmp_path / "root"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`minimind …` in this process, at home in an old root; what it says."""

    def run(old: Old, *arguments: str) -> Any:
        monkeypatch.setenv("MINIMIND_ROOT", str(old.root))
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.chdir(old.root)
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["minimind", *arguments])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        return said

    return run


@pytest.fixture
def verb(old: Old, run: Callable[..., Any]) -> Verb:
    return lambda *arguments: run(old, *arguments).out


def test_list(old: Old, verb: Verb) -> None:
    said = verb("runs")
    states = {line.split()[1]: line.split()[3] for line in said.splitlines() if "│" in line and "-" in line}
    assert states[old.dense.name] == "finished"
    assert states[old.moe.name] == "preempted"
    assert len(states) == 6


def test_the_same_command_finds_the_finished_run(old: Old, verb: Verb) -> None:
    said = verb("train", *old.expected["commands"]["dense"])
    assert "This run is finished" in said
    assert old.dense.name in said


def test_evaluate(old: Old, verb: Verb) -> None:
    before = old.expected["evaluation"]
    shutil.rmtree(old.dense / "evaluations")  # the new one has the same name
    verb("evaluate", f"checkpoint=runs/{old.dense.name}")
    (now,) = (read_json(path) for path in old.dense.glob("evaluations/*.json"))
    same = ("tokens", "bytes", "documents", "checkpoint", "sequence_length", "precision")
    assert {key: now[key] for key in same} == {key: before[key] for key in same}
    figures = [key for key in before if key.startswith("val/")]
    assert [now[key] for key in figures] == pytest.approx([before[key] for key in figures], rel=1e-5)


def test_generate(old: Old, verb: Verb) -> None:
    generated = old.expected["generate"]
    assert verb("generate", f"runs/{old.dense.name}", *generated["options"]) == generated["text"]
    (checkpoint,) = old.moe.glob("checkpoints/step_*")
    assert verb("generate", str(checkpoint), "--prompt", "ba do", "--max-new-tokens", "8").startswith("ba do")


def test_inspect(old: Old, verb: Verb) -> None:
    assert "1 of hidden size 8" in verb("inspect", f"runs/{old.dense.name}")
    assert "2 of 4 experts" in verb("inspect", f"runs/{old.moe.name}")
    assert "288 tokens" in verb("inspect", f"runs/{old.dense.name}/tokenizer.json")
    assert "Window 0" in verb("inspect", "shards", "--window", "0")


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_export(old: Old, verb: Verb, name: str) -> None:
    verb("export", f"runs/{getattr(old, name).name}", "--to", f"exported/{name}")
    assert (old.root / "exported" / name / "model.safetensors").is_file()


def test_report(old: Old, verb: Verb) -> None:
    (sweep,) = old.root.glob("sweeps/norm-*")
    assert "layernorm" in verb("report", f"sweeps/{sweep.name}")
    assert (sweep / "report.md").is_file()
    arms = [f"runs/{path.name}" for path in sorted(old.root.glob("runs/arm-*"))]
    assert "norm=layernorm" in verb("report", *arms)


def test_sync(old: Old, verb: Verb) -> None:
    assert "4 rows up to step 20" in verb("sync", f"runs/{old.dense.name}")


def test_shards_hold_the_very_tokens(old: Old) -> None:
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


def test_an_unfinished_run_goes_on_to_the_end_it_would_have_had(
    run: Callable[..., Any], mine: Old, version: Path
) -> None:
    old, said = mine, run(mine, "train", *mine.expected["commands"]["moe"]).err
    before, now = (read_rows(Old(root).moe / "metrics.jsonl") for root in (version, old.root))
    assert "Resuming" in said
    assert now[: len(before)] == before
    whole = old.expected["whole"]
    assert now[-1]["step"] == whole["step"]
    assert read_json(old.moe / "status.json")["state"] == "finished"
    exact = ("tokens", "train/lr", "train/real_token_fraction")
    assert {key: now[-1][key] for key in exact} == {key: whole[key] for key in exact}
    for key in ("train/loss", "val/loss", "val/bits_per_byte"):
        assert now[-1][key] == pytest.approx(whole[key], rel=1e-3), key  # of another processor
    # a choice of experts that falls the other way there moves it more
    assert now[-1]["moe/balance_loss"] == pytest.approx(whole["moe/balance_loss"], rel=2e-2)


def test_a_finished_run_goes_on_longer(run: Callable[..., Any], mine: Old) -> None:
    said = run(mine, "train", f"run.resume=runs/{mine.dense.name}", f"trainer.max_steps={MORE_STEPS}",
               f"paths.root={mine.root}", f"paths.cache={mine.root / 'cache'}")  # fmt: skip
    assert f"Resuming {mine.dense} from step 20" in said.err
    assert [row["step"] for row in read_rows(mine.dense / "metrics.jsonl")] == [5, 10, 15, 20, MORE_STEPS]


def test_a_new_run_starts_from_its_weights(run: Callable[..., Any], mine: Old) -> None:
    run(mine, "train", *mine.expected["commands"]["dense"], "tokenizer=file", "tokenizer.path=shards/tokenizer.json",
        "run.name=child", f"init_from=runs/{mine.dense.name}", "trainer.max_steps=1", "schedule.warmup_steps=0",
        "optim.lr=1e-9")  # fmt: skip
    (child,) = mine.root.glob("runs/child-*")
    figures = read_json(child / "summary.json")
    assert figures["val/loss"] == pytest.approx(mine.expected["evaluation"]["val/loss"], rel=1e-4)


def test_the_checkpoint_is_tensors_and_plain_types(old: Old) -> None:
    (file,) = old.dense.glob("checkpoints/step_*/state.pt")
    assert torch.load(file, weights_only=True)["global_step"] == 20
