"""User errors give a helpful message, exit code 2, no traceback, and leave nothing half-written."""

from pathlib import Path

import pytest

from minimind.cli import evaluate, main, train
from minimind.runs.checkpoints import mark_complete


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a program in this process; returns its exit code and standard error."""

    def run(program, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["program", *arguments])
        monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path / "root"))
        code = program.main()
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return code, output.err

    return run


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["model.hiden_size=5"], ["there is no setting `hiden_size` here; did you mean `hidden_size`?"]),
        (["modell=nano"], ["did you mean `model`?"]),
        (["model=nanno"], ["Could not find 'model/nanno'", "nano", "minimind_26m"]),
        (["trainer.max_steps=many"], ["Value 'many' of type 'str' could not be converted to Integer"]),
        (
            ["model.norm=batchnorm"],
            ["must be one of rmsnorm, layernorm, or a class of your own as module.Class, but is batchnorm"],
        ),
        (["data=text", "data.fils=[a]"], ["did you mean `data.files`?", "did you mean `files`?"]),
        (
            ["model.x=1", "optim.y=2", "seed=z"],
            ["The configuration has 3 errors", "model.x=1:", "optim.y=2:", "seed=z:"],
        ),
        (["trainer.max_steps=="], ["trainer.max_steps=="]),
        (["data=text"], ["`data.files` must name files for data=text"]),
        (["data=text", "data.files=[nowhere.txt]"], ["must exist, but nowhere.txt is neither in"]),
        (["tokenizer=file", "tokenizer.path=nowhere.json"], ["tokenizer.path must exist, but nowhere.json"]),
        (["init_from=nowhere"], ["init_from must exist, but nowhere"]),
        (["run.name=../a"], ["`run.name` must be a folder name"]),
        (["run.name="], ["`run.name` must not be empty"]),
        (["run.resume=must"], ["must exist with run.resume=must, but does not"]),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], ["must not be 16-mixed on a CPU"]),
        (["callbacks.progress._target_=no.such.Class"], ["`callbacks.progress` must be a class"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_train_refuses(run, arguments: list[str], messages: list[str], tmp_path: Path) -> None:
    code, err = run(train, *arguments)
    assert code == 2, err
    assert any(message in err for message in messages), err
    assert not list((tmp_path / "root").glob("runs/*"))


def test_evaluate_refuses(run, tmp_path: Path, small_run: Path) -> None:
    for arguments, message in [
        ([], "needs checkpoint=runs/<run>"),
        (["checkpoint=nowhere"], "checkpoint must exist, but nowhere is neither in"),
        ([f"checkpoint={tmp_path}"], "must be a run folder or a checkpoint"),
        ([f"checkpoint={small_run}", "model.hidden_size=64"], "come from the checkpoint"),
        ([f"checkpoint={small_run}", "trainer.max_steps=5"], "there is no setting `max_steps` here"),
        ([f"checkpoint={small_run}", "data.sequence_length=5000"], "at most the model's context of 1024 tokens"),
    ]:
        code, err = run(evaluate, *arguments)
        assert code == 2, err
        assert message in err


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(
    run, small_run: Path, small_arguments: list[str], tmp_path: Path
) -> None:
    tokenizer = small_run / "tokenizer.json"
    code, err = run(train, *small_arguments, "tokenizer=file", f"tokenizer.path={tokenizer}", "model.vocab_size=280")
    assert (code, "set model.vocab_size=300" in err) == (2, True), err
    assert not list((tmp_path / "root").glob("runs/*"))


def test_an_empty_corpus_and_invalid_json_lines_are_refused(run, small_arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{bad\n')
    start = [argument for argument in small_arguments if not argument.startswith("data")]
    for arguments, message in [
        (["data=text", f"data.files=[{tmp_path}/empty.txt]"], "at least one document, but has none"),
        (["data=jsonl", f"data.files=[{tmp_path}/bad.jsonl]"], "bad.jsonl, line 2: must be a JSON object"),
    ]:
        code, err = run(train, *start, *arguments)
        assert (code, message in err) == (2, True), err
    assert not list((tmp_path / "root").glob("runs/*"))
    assert not list((tmp_path / "root").glob("cache/shards/*/*"))


def test_generate_refuses(run, small_run: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (["nowhere"], "The run must exist, but nowhere is neither in"),
        ([str(tmp_path)], "must be a run folder or a checkpoint"),
        ([str(small_run), "--temperature", "-1"], "`temperature` must be at least 0"),
        ([str(small_run), "--prompt", "a", "--max-new-tokens", "-3"], "`max_new_tokens` must be at least 0, but is -3"),
        ([str(small_run), "--prompt", "a", "--yarn", "0.5"], "`rope_scaling.factor` must be at least 1"),
        ([str(small_run), "--prompt", ""], "at least one token, but is empty"),
        ([str(small_run), "--prompt", "a b " * 2000], "must be shorter than the context of 1024 tokens"),
    ]:
        code, err = run(main, "generate", *arguments)
        assert code == 2, err
        assert message.lower() in err.lower()


def test_an_invalid_or_mismatched_checkpoint_is_refused(run, small_run: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "step_00000001"
    shutil.copytree(small_run / "checkpoints" / "step_00000020", broken)
    model = broken / "model.json"
    model.write_text(model.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    code, err = run(main, "generate", str(broken), "--prompt", "a")
    assert (code, "its COMPLETE is of step 20" in err) == (2, True)
    mark_complete(broken, 1)
    code, err = run(main, "generate", str(broken), "--prompt", "a")
    assert (code, "must fit the model" in err) == (2, True)
    (broken / "state.pt").write_bytes(b"not a checkpoint")
    mark_complete(broken, 1)
    code, err = run(main, "generate", str(broken), "--prompt", "a")
    assert (code, "must be a MiniMind checkpoint" in err) == (2, True)
