"""`run.resume=<folder>` keeps the record of a run consistent, and never runs code from an untrusted folder."""

import copy
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from minimind.cli import evaluate, train
from minimind.runs.checkpoints import mark_complete
from minimind.runs.metrics_file import read_rows
from minimind.runs.stored_config import escaped, read_config, write_config
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError
from minimind.utils.files import read_json, write_json


def content_of(folder: Path) -> dict[str, str]:
    """Hashes of all files of a run except its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("lock.json")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copy_of(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(f"{name}-{run.name[-8:]}")))


def edit(config: Path, change: Callable[[dict[str, Any]], None]) -> None:
    settings = read_config(config)
    change(settings)
    write_config(config, settings)


@pytest.mark.parametrize("state", ["finished", "preempted"])
def test_training_settings_of_a_run_cannot_be_changed(run_here, small_run: Path, state: str) -> None:
    run = copy_of(small_run, state)
    write_json(run / "status.json", {**read_json(run / "status.json"), "state": state})
    before = content_of(run)
    overrides = ["optim.lr=1e-4", "seed=2", "data.sequence_length=16", "model.rope_theta=5000", "model.dropout=0.2",
             "model.hidden_size=64", "trainer.precision=bf16-mixed", "trainer.batch_tokens=512", "run.tag=b",
             "schedule.warmup_steps=3", "init_from=runs/other", "data.packing=pad"]  # fmt: skip
    for chosen in (overrides, overrides[:1]):
        result = run_here(train, f"run.resume={run}", "trainer.max_steps=30", *chosen)
        assert result.code == 2, result.err
        for setting in (override.partition("=")[0] for override in chosen):
            assert f"`{setting}` must be " in result.err
        assert f"init_from={run}" in result.err
        assert content_of(run) == before
    for group in ("model=nano", "experiment=nano_moe", "debug=smoke", "run.name=other", "recipe=nano"):
        result = run_here(train, f"run.resume={run}", group)
        assert (result.code, "the run has its own" in result.err) == (2, True), group
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=10")
    assert (result.code, "must be at least 20, the number of completed steps" in result.err) == (2, True)
    assert content_of(run) == before


def test_settings_that_may_change_are_applied_and_recorded(run_here, small_run: Path, text_file: Path) -> None:
    run = copy_of(small_run, "longer")
    edit(
        run / "config.yaml", lambda settings: settings["run"].update(fresh=True, max_minutes=1e-9)
    )  # apply only to the first start
    moved = text_file.rename(text_file.with_name("moved.txt"))
    try:
        result = run_here(
            train, f"run.resume={run}", "trainer.max_steps=24", "schedule.horizon_steps=24", "trainer.micro_batch=2",
            f"data.files=[{moved}]", "logger=csv", "trainer.log_every_steps=1", "evaluation.max_new_tokens=2",
        )  # fmt: skip
    finally:
        moved.rename(text_file)
    assert result.code == 0, result.err
    status, rows = read_json(run / "status.json"), read_rows(run / "metrics.jsonl")
    config = read_config(run / "config.yaml")
    assert (status["state"], status["step"], status["auto"]["micro_batch"]) == ("finished", 24, 2)
    assert [row["step"] for row in rows[-5:]] == [20, 21, 22, 23, 24]
    assert rows[-1]["train/lr"] < rows[-2]["train/lr"] < rows[-5]["train/lr"] * 10
    assert (run / "csv" / "metrics.csv").is_file()
    assert (config["trainer"]["max_steps"], config["schedule"]["horizon_steps"]) == (24, 24)
    assert (config["trainer"]["micro_batch"], list(config["logger"])) == (2, ["watch", "csv"])
    assert config["data"]["files"] == [str(moved)]
    assert not list(run.parent.glob("longer-*.old-*"))


def test_trained_weights_keep_their_tokenizer(run_here, small_run: Path, tmp_path: Path, small_arguments) -> None:
    """Even if the data change is accepted, or the tokenizer would be trained on the new data."""
    run, other, text = copy_of(small_run, "other_tokenizer"), tmp_path / "tokenizer.json", tmp_path / "other.txt"
    BPE.train(["some other text " * 50], 290).save(other)
    text.write_text("".join(f"some other text, and number {n} of it\n" * 30 for n in range(60)))
    before = content_of(run)
    longer = [f"run.resume={run}", "run.accept_data_change=true", "trainer.max_steps=21"]
    for change in (f"tokenizer.path={other}", f"data.files=[{text}]"):
        result = run_here(train, *longer, change)
        assert result.code == 2, result.err
        assert f"The tokenizer must be the one that {run / 'checkpoints' / 'step_00000020'} was trained" in result.err
        assert content_of(run) == before
    own = next(word for word in result.err.split() if word.startswith("tokenizer.path="))  # from the message
    result = run_here(train, *longer, f"data.files=[{text}]", own)
    assert result.code == 0, result.err
    next_run = [*small_arguments, "trainer.max_steps=1", "schedule.warmup_steps=0", f"init_from={small_run}"]
    result = run_here(train, *next_run, "run.name=same")
    assert (result.code, "Warning" in result.err) == (0, False), result.err
    result = run_here(train, *next_run, "run.name=another", f"tokenizer.path={other}")
    assert result.code == 0, result.err
    assert re.search(rf"Warning: \d+ of this run's token ids stood for other text when {small_run}", result.err)


def test_the_same_command_applies_settings_outside_the_identity(
    run_here, small_run: Path, small_arguments: list[str]
) -> None:
    """Resolved `auto` values are kept from the first start, unless set explicitly."""
    run = copy_of(small_run, "again")
    for checkpoint in ("step_00000020",):
        shutil.rmtree(run / "checkpoints" / checkpoint)
    write_json(run / "status.json", {**read_json(run / "status.json"), "state": "preempted", "step": 10})
    result = run_here(train, *small_arguments, "run.name=again", "trainer.micro_batch=4")
    assert result.code == 0, result.err
    assert read_json(run / "status.json")["auto"]["micro_batch"] == 4
    assert read_rows(run / "metrics.jsonl")[-1]["val/loss"] == pytest.approx(
        read_rows(small_run / "metrics.jsonl")[-1]["val/loss"], rel=1e-3
    )


def test_an_edited_configuration_is_compared_with_the_checkpoint(run_here, small_run: Path) -> None:
    run = copy_of(small_run, "edited")
    edit(run / "config.yaml", lambda settings: settings["model"].update(rope_theta=5000.0))
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=30")
    assert (result.code, "`model.rope_theta` must be" in result.err) == (2, True)


def malicious_nodes(marker: Path) -> list[dict[str, Any]]:
    """Nodes that would run code if Hydra instantiated whatever is in a configuration."""
    popen = {"_target_": "subprocess.Popen", "args": ["touch", str(marker)]}
    progress = "minimind.training.callbacks.progress.Progress"
    return [
        popen,
        {"_target_": progress, "style": popen},
        {"_target_": progress, "deep": [{"deeper": popen}]},
        {"_target_": "minimind.training.callbacks.samples.Samples", "every_steps": popen},
        {"_target_": "lightning.pytorch.callbacks.LambdaCallback", "on_train_start": {**popen, "_partial_": True}},
        {"_target_": "lightning.pytorch.callbacks.lambda_function.Callback.__init_subclass__"},
        {"_target_": "torch.load", "f": str(marker)},
        {"_target_": "minimind.utils.files.write_text", "path": str(marker), "text": ""},
        {"_target_": "minimind.training.callbacks.progress.sys.exit"},
        {"_target_": "minimind.training.callbacks.samples.time.sleep", "secs": 0},
        {"_target_": "hydra.utils.instantiate", "config": popen},
        {"_target_": "not a name"},
        {"_target_": ["subprocess.Popen"]},
        {"_target_": "${oc.env:HOME}"},
    ]


@pytest.mark.parametrize("plus", ["+", "++"])
def test_a_plus_before_run_resume_or_checkpoint_changes_nothing(run_here, small_run: Path, plus: str) -> None:
    run = copy_of(small_run, f"plus{len(plus)}")
    result = run_here(train, f"{plus}run.resume={run}", "optim.lr=1e-4")
    assert (result.code, "`optim.lr` must be" in result.err) == (2, True), result.err
    result = run_here(train, f"{plus}run.resume={run}", "trainer.max_steps=10")
    assert (
        "must be at least 20, the number of completed steps" in result.err
    )  # uses the settings of the run: data=text is not given here
    result = run_here(evaluate, f"{plus}checkpoint={run / 'nowhere'}")
    assert (result.code, "checkpoint must exist, but" in result.err) == (2, True), result.err


def test_hydra_s_parse_errors_are_shown(run_here, small_run: Path) -> None:
    run = copy_of(small_run, "unread")
    edit(run / "config.yaml", lambda settings: settings["callbacks"].update(theirs={"_target_": "theirs.Theirs"}))
    invalid = ["optim.betas=[1,2", "callbacks.theirs._target_=theirs.Theirs", "trainer"]
    result = run_here(train, f"run.resume={run}", *invalid)
    assert result.code == 2, result.err
    assert "The configuration has 2 errors" in result.err
    assert "optim.betas=[1,2: no viable alternative at input '[1,2'" in result.err
    assert "trainer: Error parsing override 'trainer' missing EQUAL" in result.err


def test_an_untrusted_folder_runs_no_code(run_here, small_run: Path, tmp_path: Path) -> None:
    """Each node is refused by name, whatever else is refused, and before any is instantiated."""
    run, left = copy_of(small_run, "foreign"), {}
    for number, node in enumerate(malicious_nodes(tmp_path / "marker")):
        left |= {f"{group}.extra{number}": (group, f"extra{number}", node) for group in ("callbacks", "logger")}
    settings = read_config(run / "config.yaml")
    for refusals in range(3):  # of foreign classes; of nodes inside our own callbacks; of those inside loggers
        groups = {name: dict(settings[name]) for name in ("callbacks", "logger")}
        for group, name, node in left.values():
            groups[group][name] = copy.deepcopy(node)  # else YAML would write aliases
        write_config(run / "config.yaml", settings | groups)
        before = content_of(run)
        result = run_here(train, f"run.resume={run}", "trainer.max_steps=30")
        assert (result.code, content_of(run)) == (2, before), (refusals, result.err)
        refused = [key for key in left if re.search(rf"`{re.escape(key)}(\._target_)?` ", result.err)]
        assert refused, result.err
        for key in refused:
            del left[key]
    assert not left
    assert not (tmp_path / "marker").exists()


def test_foreign_modules_are_not_imported_unless_typed(
    run_here, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs.py").write_text(
        "import pathlib\nfrom lightning.pytorch import Callback\n"
        f"pathlib.Path({str(tmp_path)!r}, 'imported').touch()\nclass Theirs(Callback): pass\n"
    )
    run = copy_of(small_run, "theirs")
    edit(run / "config.yaml", lambda settings: settings["callbacks"].update(theirs={"_target_": "theirs.Theirs"}))
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=21")
    assert (result.code, "if you trust it, add callbacks.theirs._target_=theirs.Theirs" in result.err) == (2, True)
    assert not (tmp_path / "imported").exists()
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=21", "callbacks.theirs._target_=theirs.Theirs")
    assert result.code == 0, result.err
    assert (tmp_path / "imported").exists()


def test_callbacks_of_lightning_are_allowed(run_here, small_run: Path) -> None:
    run = copy_of(small_run, "timer")
    timer = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:12:00:00"}
    edit(run / "config.yaml", lambda settings: settings["callbacks"].update(timer=timer))
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=21")
    assert result.code == 0, result.err


def test_an_untrusted_folder_cannot_read_environment_variables(
    run_here, small_run: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpolations are kept as plain text wherever a string is allowed."""
    monkeypatch.setenv("MY_TOKEN", "sesame-open-9")
    run = copy_of(small_run, "curious")

    def add_interpolations(settings: dict[str, Any]) -> None:
        settings["evaluation"]["prompts"] = [
            "${oc.env:MY_TOKEN}",
            "a ${ b",
            "\\${x}",
            "${oc.decode:${oc.env:MY_TOKEN}}",
        ]
        settings["run"]["command"] = settings["paths"]["cache"] = "${oc.env:MY_TOKEN}"
        settings["logger"]["watch"] = None

    edit(run / "config.yaml", add_interpolations)
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=21")
    assert result.code == 0, result.err
    assert "sesame-open-9" not in result.out + result.err
    assert read_rows(run / "samples.jsonl")[-4]["prompt"] == "${oc.env:MY_TOKEN}"
    assert read_config(run / "config.yaml")["evaluation"]["prompts"][1:3] == ["a ${ b", "\\${x}"]
    for path in (path for path in root.rglob("*") if path.is_file()):
        assert b"sesame-open-9" not in path.read_bytes(), path


@pytest.mark.parametrize(
    "content",
    ["a: [", "- a", "", "a: &x [1]\nb: [*x, *x]\n", "1: 2", "\x00", "a: !!python/object/apply:os.system ['true']",
     "data: {kind: nothing}", "data: 3", "data: {kind: text, files: [a]}\nmodel: {hidden_size: many}", "[" * 5000],
)  # fmt: skip
def test_a_damaged_configuration_gives_a_message(run_here, small_run: Path, content: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / "config.yaml").write_text(content)
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=30")
    assert result.code == 2
    assert f"{run / 'config.yaml'} must be a stored configuration" in result.err


def test_a_stored_configuration_is_read_back_unchanged(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    texts = ["${a}", "a ${ b", r"\${x}", r"\\${x} y", "$${a}", "{${}}", "'${a'", "${a\n}", "1e-4", "on", "~", "日本"]
    config = {"list": texts, "by": {str(n): text for n, text in enumerate(texts)}, "lr": 1e-4, "none": None}
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config
    assert OmegaConf.to_container(OmegaConf.create(escaped(config)), resolve=True) == config
    with pytest.raises(UserError, match=r"has no other\.yaml"):
        read_config(tmp_path / "other.yaml")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["list"] == texts


def test_a_checkpoint_with_weights_only_cannot_be_resumed(run_here, small_run: Path) -> None:
    import torch

    run = copy_of(small_run, "weights_only")
    checkpoint = run / "checkpoints" / "step_00000020"
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    torch.save({"state_dict": state["state_dict"], "global_step": 20}, checkpoint / "state.pt")
    mark_complete(checkpoint, 20)
    before = content_of(run)
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=30")
    assert (result.code, "has weights only; start a run from them with init_from=" in result.err) == (2, True)
    assert content_of(run) == before


def test_fewer_epochs_than_already_trained_are_refused(run_here, small_run: Path) -> None:
    """The number of steps depends on the data, so this is checked after preparing it and before writing anything."""
    run = copy_of(small_run, "epochs")
    before = content_of(run)
    result = run_here(train, f"run.resume={run}", "trainer.max_steps=null", "trainer.epochs=0.25")
    assert result.code == 2, result.err
    assert "`trainer.epochs` must be at least" in result.err
    assert "20 steps that the run has completed, but is 0.25, which is " in result.err
    assert content_of(run) == before
    passed = copy_of(small_run, "passed")
    write_json(passed / "status.json", {**read_json(passed / "status.json"), "state": "preempted", "step": 5})
    result = run_here(train, f"run.resume={passed}", "trainer.max_steps=12")  # its checkpoint is ahead of its status
    assert (result.code, "must be at least 20, the number of completed steps" in result.err) == (2, True)


@pytest.mark.parametrize("file", ["metrics", "samples", "histograms", "metrics.superseded"])
def test_damaged_rows_are_detected_before_anything_is_written(run_here, small_run: Path, file: str) -> None:
    run = copy_of(small_run, file)
    path = run / f"{file}.jsonl"
    content = path.read_bytes() if path.is_file() else b""
    for damage, reason in ((b"[1]\n", "is a list"), (b"{torn\n", ""), (b'{"loss": 1}\n', "has no `step`")):
        if reason.endswith("`") and file == "metrics.superseded":
            continue  # not required in this file
        path.write_bytes(damage + content)
        before = content_of(run)
        result = run_here(train, f"run.resume={run}", "trainer.max_steps=22")
        assert result.code == 2, result.err
        assert f"{path}, line 1: must be a JSON object, but {reason}" in result.err
        assert content_of(run) == before


def test_settings_that_a_finished_run_did_not_use_are_refused(
    run_here, small_run: Path, small_arguments: list[str], text_file: Path
) -> None:
    """Else its results would be shown as if it had used them."""
    run = copy_of(small_run, "done")
    from_another_version = {"max_new_tokens": 7}  # as if the default had changed since then
    edit(run / "config.yaml", lambda settings: settings["evaluation"].update(from_another_version))
    before = content_of(run)
    command = [*small_arguments, "run.name=done"]
    changes = {
        "evaluation.decode_tokens=10": "evaluation.decode_tokens=10 (not ",
        "trainer.log_every_steps=5": "trainer.log_every_steps=5 (not 2)",
        "callbacks=samples": "callbacks.samples.every_steps=200 (not None)",
        "evaluation.temperature=0": "evaluation.temperature=0.0 (not ",
    }
    for typed, message in changes.items():
        for start in (command, [f"run.resume={run}"]):
            result = run_here(train, *start, typed)
            assert (result.code, message in result.err) == (2, True), (typed, result)
            assert "max_new_tokens" not in result.err
            for remedy in ("run.fresh=true", "run.tag=NAME", f"run.resume={run} trainer.max_steps=N"):
                assert remedy in result.err
    result = run_here(train, f"run.resume={run}", "schedule.horizon_steps=40")
    assert (result.code, "schedule.horizon_steps=40 (not " in result.err) == (2, True), result.err
    irrelevant = ["trainer.num_threads=2", "trainer.micro_batch=2", "logger=csv", "callbacks=rich",
                 "data.num_workers=1", "parallel=ddp", "run.max_minutes=3", "trainer.log_every_steps=2"]  # fmt: skip
    for start in (command, [f"run.resume={run}"], [f"run.resume={run}", f"data.files=[./{text_file.name}]"]):
        result = run_here(train, *start, *irrelevant)
        assert (result.code, "This run is finished" in result.out) == (0, True), result.err
    assert content_of(run) == before
    for invalid_command in ("python '", 7, ["a"]):
        edit(run / "config.yaml", lambda settings, value=invalid_command: settings["run"].update(command=value))
        result = run_here(train, *small_arguments, "run.name=done", "evaluation.max_new_tokens=7")
        assert (result.code, "This run is finished" in result.out) == (0, True), result.err
    edit(run / "config.yaml", lambda settings: settings.update(run=[], from_another_version={"a": 1}))
    result = run_here(train, *small_arguments, "run.name=done", "evaluation.max_new_tokens=7")
    assert (result.code, "This run is finished" in result.out) == (0, True), result.err
