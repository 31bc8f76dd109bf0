"""A damaged file in a run folder is reported by path; other runs and other commands still work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minimind.cli import evaluate, main
from minimind.data.prepare import _finished_chunks
from minimind.data.shards import ShardWriter, token_dtype
from minimind.report.run_record import read_run
from minimind.report.sweep_file import Sweep, SweepJob, load_outcomes, load_sweep
from minimind.runs.checkpoints import mark_complete
from minimind.runs.folder import COMPLETE, RunFolder, step_of
from minimind.runs.metrics_file import read_rows, truncate_after
from minimind.sweep.table import last_row, status_of
from minimind.tracking.points import Tail
from minimind.training.callbacks.checkpointing import SafeCheckpointIO
from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.files import file_hash, write_json

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str, program: Any = main) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["minimind", *arguments])
        code = program.main()
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return code, output.out, output.err

    return run


def make_run(root: Path, name: str) -> RunFolder:
    folder = RunFolder(root / "runs" / name)
    folder.path.mkdir(parents=True)
    folder.update_status(state="finished", step=10, tokens=1000, reason=None)
    folder.metrics.write_text('{"step": 5, "tokens": 500, "val/loss": 2.5}\n{"step": 10, "tokens": 1000}\n')
    write_json(folder.summary, {"step": 10, "val/loss": 2.5})
    folder.config.write_text("seed: 1\n")
    return folder


STATUS = {
    "cut": b'{"state": "finis',
    "zeros": b"\x00" * 200,
    "list": b"[]",
    "nothing": b"{}",
    "words": b'{"state": "finished", "step": "ten", "tokens": null, "updated": 0}',
    "no_time": b'{"state": "finished", "step": 1, "tokens": 1, "updated": "now"}',
    "huge": b'{"state": "finished", "step": 1, "tokens": 1, "updated": 1%s}' % (b"0" * 400),
    "deep": b"[" * 100_000,
}


def test_minimind_runs_lists_good_and_damaged_runs(run_command: Run, tmp_path: Path) -> None:
    for name in ("good", "[red]good"):
        make_run(tmp_path, name)
    for name, content in STATUS.items():
        make_run(tmp_path, name)
        (tmp_path / "runs" / name / "status.json").write_bytes(content)
    make_run(tmp_path, "lines").metrics.write_bytes(b'{"step": 5}\n\xff\xfe\n{"step": 10}\n')
    code, out, err = run_command("runs")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    states = {line[0]: line[1] for line in cells if len(line) == 6}
    damaged = dict.fromkeys([*STATUS, "lines"], "damaged")
    assert (code, states) == (0, {"good": "finished", "[red]good": "finished", **damaged})
    assert all(str(tmp_path / "runs" / name) in err for name in damaged)
    assert f"{tmp_path / 'runs' / 'lines' / 'metrics.jsonl'}, line 2: must be a JSON object" in err
    assert len(err.splitlines()) == len(damaged)


@pytest.mark.parametrize("file", ["status.json", "config.yaml", "model.json"])
def test_commands_for_one_run_name_the_damaged_file(
    file: str, run_command: Run, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "copied"
    shutil.copytree(small_run, run)
    checkpoints = [*run.glob("checkpoints/*")]
    parents = {"status.json": [run], "config.yaml": [run, *checkpoints], "model.json": checkpoints}[file]
    for parent in parents:
        (parent / file).write_bytes(b'{"cut')
    for checkpoint in checkpoints:
        mark_complete(checkpoint, step_of(checkpoint))  # so that the marker matches
    sync, generate = ["sync", str(run)], ["generate", str(run), "--prompt", "a"]
    readers = {"status.json": [sync, generate], "config.yaml": [sync], "model.json": [generate]}
    for arguments in (["inspect", str(run)], *readers[file]):
        code, _, err = run_command(*arguments)
        assert (code, f"{file} must be" in err) == (2, True), err
    code, _, err = run_command(f"checkpoint={run}", program=evaluate)
    assert (code, f"{file} must be" in err) == (2, True), err


def test_a_report_counts_a_damaged_run_as_failed(tmp_path: Path) -> None:
    job = SweepJob("arm", 1, "runs/a", [])
    for name, content in {
        "config.yaml": b"a: [1", "metrics.jsonl": b'{"step": 5}\n[1]\n', "summary.json": b"[]", "status.json": b"\xff",
    }.items():  # fmt: skip
        folder = make_run(tmp_path, name)
        file = folder.path / name
        file.write_bytes(content)
        record = read_run(job, folder.path)
        assert record.state == "failed"
        assert str(file) in str(record.exclusion("val/loss"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"jobs": 5}', '{"jobs": [{"arm": 1}]}', '{"jobs": [], "arms": {}}']
)
def test_a_damaged_sweep_file_is_reported(content: str, run_command: Run, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DamagedFile, match=r"sweep\.json must"):
        load_sweep(tmp_path)
    code, _, err = run_command("report", str(tmp_path))
    assert (code, "sweep.json must" in err) == (2, True)


def test_sweeps_are_read_back_and_damaged_outcomes_are_reported(tmp_path: Path) -> None:
    sweep = Sweep("s", "c", "quality", "a", "val/loss", {"a": []}, [SweepJob("a", 1, "runs/a", [])])
    sweep.save(tmp_path)
    assert load_sweep(tmp_path) == sweep
    (tmp_path / "outcomes.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"outcomes\.json must be JSON"):
        load_outcomes(tmp_path)


def test_a_sweep_continues_despite_a_damaged_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a")
    assert last_row(folder.metrics) == {"step": 10, "tokens": 1000}
    for line in (b"garbage\n", b"[1]\n", b'{"tokens": 1}\n', b"[" * 50_000 + b"\n"):
        folder.metrics.write_bytes(line)
        assert last_row(folder.metrics) == {}
    (folder.path / "status.json").write_bytes(b"{")
    status = status_of(folder)
    assert (status["state"], "status.json must be JSON" in status["reason"]) == ("failed", True)


def test_a_damaged_line_is_reported_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\n{"step": 2}\n{"step\n{"step": 3}\n{"cut')
    tail = Tail(path)
    for read in (lambda: read_rows(path), lambda: truncate_after(path, 2), tail.read):
        with pytest.raises(
            DamagedFile, match=r"metrics\.jsonl, line 4: must be a JSON object, but .*; remove that line"
        ):
            read()
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    tail = Tail(path)
    assert tail.read() == [{"step": 1}, {"step": 2}]
    with path.open("ab") as file:
        file.write(b'{"step": 3}\n7\n')
    with pytest.raises(DamagedFile, match="line 4: must be a JSON object, but is a int"):
        tail.read()


def test_preparing_resumes_before_a_damaged_chunk_record(tmp_path: Path) -> None:
    shard = {"name": "shard_00000.bin", "tokens": 1, "documents": 1, "text_bytes": 1, "sha256": ""}
    for chunk in range(3):
        write_json(tmp_path / f"chunk_{chunk:05d}.json", {"train": [shard], "validation": []})

    def finished() -> tuple[int, int]:
        writers = {split: ShardWriter(tmp_path, token_dtype(300)) for split in ("train", "validation")}
        return _finished_chunks(tmp_path, writers), len(writers["train"].shards)

    assert finished() == (3, 3)
    for content in ("", "{}", '{"train": [{"name": 1}], "validation": []}', "[1]"):
        (tmp_path / "chunk_00001.json").write_text(content)
        assert finished() == (1, 1)
    (tmp_path / "chunk_00001.json").unlink()
    assert finished() == (1, 1)


WEIGHT = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.__setitem__(WEIGHT, w[WEIGHT] * float("nan")), f"finite as float32, but are not: {WEIGHT}"),
        (lambda w: w.__setitem__(WEIGHT, w[WEIGHT].to(torch.int8)), rf"{WEIGHT} (int8)"),
        (lambda w: w.pop(WEIGHT), f"must fit the model, but lack {WEIGHT}"),
        (lambda w: w.__setitem__(WEIGHT, w[WEIGHT][:1]), f"have in the wrong shape {WEIGHT}"),
        (lambda w: w.__setitem__("extra", torch.ones(1)), "have unexpected extra"),
    ],
)
def test_a_checkpoint_with_wrong_weights_is_refused_by_name(
    change: Callable[[dict[str, Any]], Any], message: str, run_command: Run, small_run: Path, tmp_path: Path
) -> None:
    (source,) = small_run.glob("checkpoints/*20")
    checkpoint = tmp_path / source.name
    shutil.copytree(source, checkpoint)
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    weights = {name.removeprefix("model."): tensor for name, tensor in state["state_dict"].items()}
    change(weights)
    torch.save({"state_dict": {f"model.{n}": t for n, t in weights.items()}}, checkpoint / "state.pt")
    mark_complete(checkpoint, 20)
    for arguments in (["generate", str(checkpoint), "--prompt", "a"], ["export", str(checkpoint), "--to", "out"]):
        code, _, err = run_command(*arguments)
        assert (code, message in err, len(err.splitlines())) == (2, True, 1), err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "model.json must be a JSON object, but is a list"),
        ('{"hiden_size": 8}', "`hiden_size` is not a setting; did you mean `hidden_size`?"),
        ('{"rope_scaling": {"factr": 8}}', "`rope_scaling.factr` is not a setting; did you mean `factor`?"),
        ('{"rope_scaling": 2}', "`rope_scaling` must be a mapping of settings, but is a int"),
        ('{"hidden_size": "32"}', "`hidden_size` must be an integer, but is '32'"),
        ('{"norm": ["rmsnorm"]}', "`norm` must be a string, but is ['rmsnorm']"),
        ('{"dropout": NaN}', "`dropout` must be a finite number, but is nan"),
        ('{"rope_theta": 1%s}' % ("0" * 400), "`rope_theta` must be a finite number, but is inf"),
        ('{"hidden_size": 1%s}' % ("0" * 30), "`hidden_size` must be at most 16,777,216"),
        ('{"hidden_size": 16777216, "num_hidden_layers": 4096}', "must have at most 1,099,511,627,776 parameters"),
        ('{"hidden_size": 65536}', "must fit the model, but"),  # refused before any memory is allocated
        (f'{{"mlp_only_layers": {[99] * 5000}}}', "`mlp_only_layers` must be layers from 0 to 7"),
        ('{"%s": 1}' % ("x" * 10**6), "is not a setting"),
        ("[" * 100_000, "model.json must be JSON, but it is nested too deeply"),
    ],
)  # fmt: skip
def test_an_invalid_model_file_gives_a_one_line_message(
    text: str, message: str, run_command: Run, small_run: Path, tmp_path: Path
) -> None:
    (source,) = small_run.glob("checkpoints/*20")
    checkpoint = shutil.copytree(source, tmp_path / source.name)
    (checkpoint / "model.json").write_text(text)
    mark_complete(checkpoint, 20)
    for arguments in (["generate", str(checkpoint), "--prompt", "a"], ["export", str(checkpoint), "--to", "out"]):
        code, _, err = run_command(*arguments)
        assert (code, message in err, len(err.splitlines())) == (2, True, 1), err[:1000]
        assert str(checkpoint) in err
        assert len(err) < 1000


def test_a_model_file_is_optional_but_must_match_the_marker(run_command: Run, small_run: Path, tmp_path: Path) -> None:
    (source,) = small_run.glob("checkpoints/*20")
    checkpoint = shutil.copytree(source, tmp_path / source.name)
    generate = ["generate", str(checkpoint), "--prompt", "a", "--greedy", "--max-new-tokens", "4"]
    expected = run_command(*generate)
    model = (checkpoint / "model.json").read_bytes()
    (checkpoint / "model.json").unlink()
    assert "its model.json is missing" in run_command(*generate)[2]
    mark_complete(checkpoint, 20)  # as older versions wrote it: the model is read from config.yaml
    assert run_command(*generate) == expected
    (checkpoint / "model.json").write_bytes(model)
    assert "its model.json is not in COMPLETE" in run_command(*generate)[2]


@pytest.mark.parametrize("state", [[1], {"state_dict": [1]}, {"state_dict": {"a": 1}}, {"weights": {}}])
def test_an_invalid_state_is_refused_on_resume(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "state.pt")
    write_json(tmp_path / COMPLETE, {"step": 0, "sha256": file_hash(tmp_path / "state.pt")})
    with pytest.raises(UserError, match=r"state\.pt must be a MiniMind checkpoint, but has no `state_dict`"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "state.pt", weights_only=False)
