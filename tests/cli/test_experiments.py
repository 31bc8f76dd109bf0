"""Every experiment runs for one small step; epochs; a run keeps the data that it was started with."""

import json
from pathlib import Path

import pytest

from minimind.cli import evaluate, train
from minimind.data.manifest import MANIFEST
from minimind.data.prepare import TRAIN
from minimind.data.shards import TokenStream
from minimind.runs.metrics_file import read_rows
from minimind.tokenizer.bpe import BPE
from minimind.utils.files import read_json, write_json
from minimind.utils.paths import conf_dir

SMALL = ["debug=smoke", "data.sequence_length=32", "trainer.batch_tokens=256"]
TINY = ["model.hidden_size=32", "model.num_hidden_layers=1", "model.vocab_size=300", "trainer.accelerator=cpu",
        "evaluation.max_new_tokens=2", "callbacks=none"]  # fmt: skip
ONE_STEP = ["trainer.max_steps=1", "schedule.warmup_steps=0"]
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
MINIMIND_EXPERIMENTS = [name for name in EXPERIMENTS if name.startswith("minimind3")]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs train.py in this process, where Lightning is already loaded; returns its exit code and output."""

    def start(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path / "root"))
        code = train.main()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return start


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like MiniMind's corpus: {"text": …}, some shorter than an example and some longer."""
    path = tmp_path_factory.mktemp("jsonl") / "pretrain_t2t_mini.jsonl"
    lines = [json.dumps({"text": " ".join(f"Text {i} word {j}" for j in range(i % 30 + 1))}) for i in range(400)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only_run(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "root" / "runs").iterdir()
    return folder


@pytest.mark.parametrize("experiment", MINIMIND_EXPERIMENTS)
def test_minimind_pretraining_runs_one_step(
    experiment: str, start, jsonl: Path, small_run: Path, tmp_path: Path
) -> None:
    examples, length = (128, 512) if "packed" in experiment else (256, 340)
    files = [f"data.files=[{jsonl}]", f"tokenizer.path={small_run / 'tokenizer.json'}"]
    fewer = ["model.num_attention_heads=2", "model.num_key_value_heads=1", f"trainer.batch_tokens={8 * length}"]
    code, output = start(f"experiment={experiment}", *TINY, *fewer, *files, "trainer.epochs=0.0001")
    assert code == 0, output
    run = only_run(tmp_path)
    assert read_json(run / "status.json")["step"] == 1
    assert f"batch_tokens: {examples * length}" in (run / "config.yaml").read_text()
    row = read_rows(run / "metrics.jsonl")[-1]
    assert row["train/lr"] == pytest.approx(5e-4)  # no warm-up
    assert (row["train/real_token_fraction"] < 0.9) == (length == 340)
    assert row["tokens"] == pytest.approx(row["train/real_token_fraction"] * 8 * length)


def test_other_experiments_run_one_step(start, small_arguments: list[str], tmp_path: Path) -> None:
    for experiment in set(EXPERIMENTS) - set(MINIMIND_EXPERIMENTS):
        code, output = start(f"experiment={experiment}", *small_arguments, *ONE_STEP, f"run.name={experiment}")
        assert code == 0, output
        assert len(list((tmp_path / "root" / "runs").glob(f"{experiment}-*/summary.json"))) == 1


def test_minimind_pretraining_needs_its_files(start) -> None:
    code, output = start("experiment=minimind3_pretrain")
    assert code == 2
    assert "`data.files` must name files for data=jsonl" in output
    assert "`tokenizer.path` must name a tokenizer.json" in output


def test_epochs_become_steps_and_repeating_the_command_shows_the_finished_run(
    start, small_arguments: list[str], tmp_path: Path
) -> None:
    command = [*small_arguments, *TINY, "trainer.max_steps=null", "schedule.warmup_steps=0", "data.packing=pad"]
    code, output = start(*command, "trainer.epochs=1.5")
    assert code == 0, output
    run = only_run(tmp_path)
    (stream_folder,) = (tmp_path / "root" / "cache" / "shards").glob(f"*/{TRAIN}")
    num_documents = TokenStream(stream_folder).num_documents
    steps = -(-3 * num_documents // (2 * 8))  # 8 examples of 32 tokens per step
    status, rows = read_json(run / "status.json"), read_rows(run / "metrics.jsonl")
    assert (status["step"], status["auto"]["max_steps"]) == (steps, steps)
    assert rows[-1]["train/lr"] < rows[0]["train/lr"] / 2  # the schedule ends with the steps
    written = (run / "metrics.jsonl").stat().st_mtime_ns
    code, output = start(*command, "trainer.epochs=1.5")
    assert (code, "This run is finished" in output) == (0, True), output
    assert (run / "metrics.jsonl").stat().st_mtime_ns == written
    code, output = start(f"run.resume={run}", "trainer.epochs=2")
    assert code == 0, output
    assert read_json(run / "status.json")["step"] == -(-4 * num_documents // 16)


def test_a_damaged_shard_or_another_tokenizer_stops_a_run(start, small_arguments: list[str], tmp_path: Path) -> None:
    command = [*small_arguments, *TINY, *ONE_STEP]
    code, output = start(*command)
    assert code == 0, output
    (shards,) = (tmp_path / "root" / "cache" / "shards").glob("*/made_of.json")
    shard, tokenizer = shards.parent / TRAIN / "shard_00000.bin", shards.parent / "tokenizer.json"
    original = shard.read_bytes()
    shard.write_bytes(original[:500] + bytes([original[500] ^ 1]) + original[501:])
    for more in (["data.verify=full"], []):  # detected before training, or when the shard is first read
        code, output = start(*command, "run.tag=again", *more)
        assert code == 2, output
        assert f"{shard} must have the sha256 in {MANIFEST}" in output
        assert f"delete {shards.parent} and run the same command" in output
    failed = [read_json(path) for path in (tmp_path / "root" / "runs").glob("*/status.json")]
    assert sorted(status["state"] for status in failed) == ["failed", "finished"]
    shard.write_bytes(original)
    BPE.train(["a b c " * 100], 300).save(tokenizer)
    code, output = start(*command, "run.tag=again")
    assert (code, f"{tokenizer} must be the tokenizer that made the shards" in output) == (2, True), output


def test_data_that_changed_since_the_start_is_refused(start, small_arguments: list[str], tmp_path: Path) -> None:
    command = [*small_arguments, *TINY, *ONE_STEP]
    assert start(*command)[0] == 0
    status = only_run(tmp_path) / "status.json"
    write_json(status, {**read_json(status), "state": "preempted", "data_fingerprint": "another"})
    code, output = start(*command)
    assert (code, "The data has changed since" in output) == (2, True), output
    code, output = start(*command, "run.accept_data_change=true")
    assert code == 0, output


def test_a_mixture_is_prepared_trained_and_evaluated(start, jsonl: Path, text_file: Path, tmp_path: Path, monkeypatch):
    sources = (
        f"{{prose: {{weight: 1, kind: text, files: [{text_file}], block_kb: 1}}, "
        f"json: {{weight: 3, kind: jsonl, files: [{jsonl}]}}}}"
    )
    command = [*SMALL, *TINY, "data=mixture", f"data.sources={sources}", "data.document_mask=true",
               "trainer.max_steps=4", "schedule.warmup_steps=0"]  # fmt: skip
    code, output = start(*command, "trainer.epochs=2", "trainer.max_steps=null")
    assert (code, "`trainer.epochs` must be null for a mixture" in output) == (2, True), output
    code, output = start(*command)
    assert code == 0, output
    run = only_run(tmp_path)
    row = read_rows(run / "metrics.jsonl")[-1]
    assert (row["data/json/fraction"], row["data/prose/fraction"]) == (0.75, 0.25)
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"checkpoint={run}"])
    assert evaluate.main() == 0
    (path,) = (run / "evaluations").iterdir()
    metrics = read_json(path)
    for name in ("val/loss", "val/json/loss", "val/prose/bits_per_byte"):
        assert metrics[name] == pytest.approx(row[name], rel=1e-3)
