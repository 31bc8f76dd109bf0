"""Runs that differ in what must be held constant are refused by name; other differences become caveats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import STATUS, Maker

from minimind.report.analysis import Report, analyse
from minimind.report.sweep_file import load_sweep
from minimind.utils.errors import UserError

Make = Callable[..., Path]


def read(folder: Path) -> Report:
    return analyse(folder, load_sweep(folder))


def layer(**settings: Any) -> dict[str, Any]:
    return {"model.norm": "layer", **{key.replace("__", "."): value for key, value in settings.items()}}


def auto(**changes: Any) -> dict[str, Any]:
    return {**STATUS["auto"], **changes}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": layer(optim__lr=0.02)}, "optim.lr (0.02, not 0.01)"),
        ({"settings": layer(seed=7)}, "seed (7, not 2)"),
        ({"settings": layer(model__new=1)}, "model.new (1, not None)"),
        ({"data_fingerprint": "other"}, f"data fingerprint (other, not {'f' * 64})"),
        ({"auto": auto(precision="bf16-mixed")}, "resolved precision (bf16-mixed, not 32-true)"),
        ({"auto": auto(accelerator="cuda")}, "accelerator (cuda, not cpu)"),
    ],
)
def test_a_difference_in_what_is_held_constant_is_refused(two_arms: Make, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as refusal:
        read(two_arms(**{"settings": layer(), **changes}))
    message = str(refusal.value)
    assert f"`layer` layer-2 differs from `rms` rms-2 in {named}" in message
    if "seed" not in named:
        assert f"`layer` layer-2 differs from `layer` layer-1 in {named}" in message


def test_replicates_of_an_arm_may_not_differ_in_what_the_arm_changes(two_arms: Make) -> None:
    with pytest.raises(UserError, match=r"layer-2 differs from `layer` layer-1 in model.norm \(none, not layer\)"):
        read(two_arms(settings={"model.norm": "none"}))


def test_unfinished_runs_are_compared_with_the_baseline_too(two_arms: Make) -> None:
    with pytest.raises(UserError, match=r"optim\.lr"):
        read(two_arms(settings=layer(optim__lr=0.02), state="running"))


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"run.tag": "again"}, {}),
        ({"run.name": "another", "trainer.log_every_steps": 5}, {}),
        ({}, {"source_hash": "other"}),
    ],
)
def test_settings_that_are_not_hashed_may_differ(
    two_arms: Make, settings: dict[str, Any], status: dict[str, Any]
) -> None:
    read(two_arms(settings={**layer(), **settings}, **status))


def arms_that_differ(maker: Maker, key: str, value: Any, **status: Any) -> Report:
    for seed in (1, 2):
        maker.run("base", seed, 2.0)
        maker.run("other", seed, 2.0, settings={key: value}, **status)
    return read(maker.sweep("base", differs={"other": [key]}))


def test_an_arm_that_changes_the_data_may_have_another_fingerprint(maker: Maker) -> None:
    report = arms_that_differ(maker, "tokenizer.vocab_size", 400, data_fingerprint="other")
    assert any("val/loss is per token and not comparable" in caveat for caveat in report.caveats)
    assert any("sees different batches than the baseline (tokenizer.vocab_size)" in caveat for caveat in report.caveats)


def test_an_arm_that_changes_the_precision_may_resolve_to_another(maker: Maker) -> None:
    arms_that_differ(maker, "trainer.precision", "bf16-mixed", auto=auto(precision="bf16-mixed"))


def test_an_arm_that_changes_the_model_may_not_have_another_fingerprint(maker: Maker) -> None:
    with pytest.raises(UserError, match="data fingerprint"):
        arms_that_differ(maker, "model.norm", "layer", data_fingerprint="other")


@pytest.mark.parametrize(
    ("key", "value", "paired"),
    [
        ("data.sequence_length", 64, False), ("data.packing", "pad", False), ("trainer.batch_tokens", 512, False),
        ("data.document_mask", True, True), ("optim.lr", 0.1, True),
    ],
)  # fmt: skip
def test_which_settings_change_the_batches(maker: Maker, key: str, value: Any, paired: bool) -> None:
    report = arms_that_differ(maker, key, value)
    assert any("sees different batches" in caveat for caveat in report.caveats) != paired


@pytest.mark.parametrize(
    ("status", "caveat"),
    [
        ({"source_hash": "other"}, f"Not held constant: source code ({'5' * 16}: 5 runs; other: 1 run)."),
        (
            {"versions": {"python": "3.11.7", "torch": "2.12.0"}},
            "Not held constant: torch (2.13.0: 5 runs; 2.12.0: 1 run).",
        ),
        ({"auto": auto(num_threads=2)}, "Not held constant: threads (1: 5 runs; 2: 1 run)."),
        ({"machine": {**STATUS["machine"], "host": "there"}}, "Not held constant: host (here: 5 runs; there: 1 run)."),
    ],
)
def test_differing_circumstances_are_a_caveat(two_arms: Make, status: dict[str, Any], caveat: str) -> None:
    assert read(two_arms(settings=layer(), **status)).caveats == [caveat]


def test_equal_runs_have_no_caveats(two_arms: Make) -> None:
    assert read(two_arms()).caveats == []


def test_an_unequal_budget_is_a_caveat(maker: Maker) -> None:
    for number, (arm, flops) in enumerate({"base": 1e9, "near": 1.009e9, "far": 2e9}.items()):
        maker.run(arm, 1, 2.0, settings={"optim.lr": number}, metrics={"flops": flops})
    differs = {"near": ["optim.lr"], "far": ["optim.lr"]}
    caveat = "Not held constant: budget (`far`: 2e+09 flops; `base`: 1e+09)."
    assert read(maker.sweep("base", budget="flops", differs=differs)).caveats == [caveat]
    maker.jobs.pop()
    assert read(maker.sweep("base", budget="flops", differs=differs)).caveats == []
    assert read(maker.sweep("base", budget=None, differs=differs)).caveats == []
