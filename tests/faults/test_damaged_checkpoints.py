"""No command produces metrics, text or files from a damaged checkpoint."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minimind.cli import evaluate, main, train
from minimind.runs.checkpoints import checkpoint_of, checkpoint_problem, mark_complete, resume_point
from minimind.runs.folder import RunFolder
from minimind.training.saver import Saver
from minimind.utils.errors import DamagedFile
from minimind.utils.files import file_hash, read_json, write_json

LAST = "step_00000020"


def flip_bytes(path: Path, count: int = 2000) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + count] = bytes(byte ^ 0x55 for byte in data[middle : middle + count])
    path.write_bytes(data)


def damaged_weights(folder: Path) -> None:
    flip_bytes(folder / "state.pt")


def one_bit(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) * 3 // 4] ^= 1
    (folder / "state.pt").write_bytes(data)


def other_rope(folder: Path) -> None:
    config = folder / "config.yaml"
    text = re.sub(r"rope_theta: .*", "rope_theta: 5000.0", config.read_text())
    assert text != config.read_text()
    config.write_text(text)


def swapped_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def copy_of_another_step(folder: Path) -> None:
    other = folder.with_name("step_00000010")
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def torn_marker(folder: Path) -> None:
    (folder / "COMPLETE").write_text('{"step": 20')


def marker_without_files(folder: Path) -> None:
    write_json(folder / "COMPLETE", {"step": 20, "files": {}})


def marker_of_something_else(folder: Path) -> None:
    (folder / "COMPLETE").write_text('["step"]')


DAMAGES = [damaged_weights, one_bit, other_rope, swapped_tokens, no_tokenizer, copy_of_another_step, torn_marker,
           marker_without_files, marker_of_something_else]  # fmt: skip


def files_of(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if "lock.json" not in path.name)


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_commands_refuse(
    run_here, copy: Path, small_arguments: list[str], damage: Callable, tmp_path: Path
) -> None:
    evaluations = files_of(copy / "evaluations")  # from other tests with the same run
    damage(copy / "checkpoints" / LAST)
    for program, *arguments in (
        (evaluate, f"checkpoint={copy}"),
        (main, "generate", copy, "--prompt", "the"),
        (main, "export", copy, "--to", tmp_path / "out"),
        (main, "inspect", copy),
        (train, *small_arguments, "run.name=child", "run.tag=child", f"init_from={copy / 'checkpoints' / LAST}"),
    ):
        result = run_here(program, *arguments)
        assert result.code == 2, (arguments, result)
        assert f"{copy / 'checkpoints' / LAST} cannot be used" in result.err
        assert "use another (step_00000010)" in result.err
    assert not (tmp_path / "out").exists()
    assert files_of(copy / "evaluations") == evaluations
    assert resume_point(RunFolder(copy)) == copy / "checkpoints" / "step_00000010"


def test_good_checkpoint_and_renamed_copy_are_read(copy: Path) -> None:
    last = copy / "checkpoints" / LAST
    assert checkpoint_problem(last) is None
    shutil.copytree(last, copy / "checkpoints" / f"{LAST}.bak")
    shutil.copytree(last, copy / "kept")
    assert RunFolder(copy).all_checkpoints()[-1] == last
    assert checkpoint_of(copy / "kept") == copy / "kept"


def make_first_version(checkpoint: Path) -> None:
    write_json(checkpoint / "COMPLETE", {"step": 20, "sha256": file_hash(checkpoint / "state.pt"), "bytes": 1})
    (checkpoint / "model.json").unlink()


def test_model_file_without_a_hash_is_refused(copy: Path) -> None:
    """The first version wrote no model.json; an added one would change how the weights are read."""
    last = copy / "checkpoints" / LAST
    content = (last / "model.json").read_bytes()
    make_first_version(last)
    (last / "model.json").write_bytes(content)
    assert checkpoint_problem(last) == "its model.json is not in COMPLETE"


def test_marker_of_the_first_version_is_read(copy: Path) -> None:
    last = copy / "checkpoints" / LAST
    make_first_version(last)
    assert checkpoint_problem(last) is None
    flip_bytes(last / "state.pt")
    assert "corrupt" in str(checkpoint_problem(last))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(other_rope, "differ in model.rope_theta (5000.0 and "), (swapped_tokens, "differ in tokenizer.json: one")],
)
def test_files_the_first_version_did_not_hash_are_compared_with_the_run(
    copy: Path, damage: Callable, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copy / "checkpoints" / LAST
    make_first_version(last)
    checkpoint_of(shutil.copytree(copy, copy.with_name("undamaged")))
    assert not capsys.readouterr().err
    damage(last)
    for _ in range(2):  # warns once
        assert checkpoint_of(copy) == last
    assert capsys.readouterr().err.count(message) == 1


def test_checkpoint_has_the_configuration_the_run_was_started_with(run_here, copy: Path) -> None:
    """Edits of the run's config.yaml during training must not get into a checkpoint."""
    config = copy / "config.yaml"
    original = Saver._write
    edited = []

    def write(self: Saver, *arguments: Any) -> None:
        """Edit the file after the first checkpoint."""
        original(self, *arguments)
        if not edited:
            edited.append(other_rope(copy))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "_write", write)
        result = run_here(train, f"run.resume={copy}", "trainer.max_steps=40", "trainer.checkpoint_every_steps=10")
    assert result.code == 0, result.err
    assert "rope_theta: 5000.0" in config.read_text()
    for checkpoint in RunFolder(copy).complete_checkpoints()[-2:]:
        assert "rope_theta: 5000.0" not in (checkpoint / "config.yaml").read_text()


def lose_status(run: Path, what: str) -> None:
    if what == "content of status":
        (run / "status.json").write_text("{}")
        return
    (run / "status.json").unlink()
    if what == "status and markers":
        for marker in run.glob("checkpoints/*/COMPLETE"):
            marker.unlink()
    elif what != "status":
        shutil.rmtree(run / "checkpoints")
    if what == "all but the summary":
        (run / "metrics.jsonl").unlink()


LOST_STATUS = ["status", "status and markers", "status and checkpoints", "all but the summary", "content of status"]


@pytest.mark.parametrize("lost", ["checkpoints", "markers", "one marker of the only one", *LOST_STATUS])
def test_run_with_lost_checkpoints_does_not_start_over(run_here, copy: Path, lost: str) -> None:
    status = {**read_json(copy / "status.json"), "state": "preempted"}
    write_json(copy / "status.json", status)
    if lost == "checkpoints":
        shutil.rmtree(copy / "checkpoints")
    elif lost in LOST_STATUS:
        lose_status(copy, lost)
    else:
        if lost.startswith("one"):
            shutil.rmtree(copy / "checkpoints" / "step_00000010")
        for marker in copy.glob("checkpoints/*/COMPLETE"):
            marker.unlink()
    before = files_of(copy)
    result = run_here(train, f"run.resume={copy}", "trainer.max_steps=30")
    assert result.code == 2, result.err
    assert ("must have a status.json" if lost in LOST_STATUS else "as the run has reached step 20") in result.err
    assert "run.fresh=true" in result.err
    assert files_of(copy) == before


@pytest.mark.parametrize("content", ['{"state": "finished"}', '{"state": "finished", "step": "ten", "tokens": 1}',
                                     '{"state": null, "step": 20, "tokens": 1}', '{"updated": 1}'])  # fmt: skip
def test_invalid_status_is_refused(run_here, copy: Path, content: str) -> None:
    (copy / "status.json").write_text(content)
    before = files_of(copy)
    result = run_here(train, f"run.resume={copy}", "trainer.max_steps=30")
    assert (result.code, "status.json must hold a valid run status" in result.err) == (2, True), result.err
    assert files_of(copy) == before


def test_run_killed_while_saving_its_first_checkpoint_starts_over(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints" / "step_00000010")
    (copy / "checkpoints" / LAST / "COMPLETE").unlink()
    write_json(copy / "status.json", {**read_json(copy / "status.json"), "state": "running", "step": 0})
    assert resume_point(RunFolder(copy)) is None
    mark_complete(copy / "checkpoints" / LAST, 20)
    assert resume_point(RunFolder(copy)) == copy / "checkpoints" / LAST


def test_other_losses_are_reported(run_here, copy: Path) -> None:
    """The best checkpoint is replaced by another, rows of metrics are lost, the summary is written again."""
    write_json(copy / "status.json", {**read_json(copy / "status.json"), "best_checkpoint": "step_00000015"})
    result = run_here(main, "inspect", copy)
    assert "step_00000015, the best of" in result.err
    assert f"using {LAST}" in result.err
    (copy / "metrics.jsonl").unlink()
    result = run_here(train, f"run.resume={copy}", "trainer.max_steps=22")
    assert "its rows up to step 20 are lost" in result.err
    (copy / "summary.json").unlink()
    result = run_here(train, f"run.resume={copy}")
    assert result.code == 0, result.err
    assert read_json(copy / "summary.json")["step"] == 22


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", '{"step": "x"}', "summary.json"),
        ("samples.jsonl", '{"step": 20, "prompt": 1, "continuation": 2}\n', "samples.jsonl"),
    ],
)
def test_damaged_files_of_a_finished_run_are_named(
    run_here, copy: Path, small_arguments: list[str], name: str, content: str, message: str
) -> None:
    (copy / name).write_text(content)
    result = run_here(train, f"run.resume={copy}")
    assert (result.code, message in result.err) == (2, True), result.err


@pytest.mark.parametrize("auto", [3, {"num_threads": "many"}, {"precision": None}, {"micro_batch": 1.5}])
def test_check_status_validates_auto(copy: Path, auto: Any) -> None:
    run = RunFolder(copy)
    run.check_status()
    run.update_status(auto=auto)
    with pytest.raises(DamagedFile, match=r"status\.json must hold a valid run status, but its"):
        run.check_status()
