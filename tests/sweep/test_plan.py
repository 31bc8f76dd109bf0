"""From the command line to jobs: arms × seeds, all checked before the start, runs deduplicated, equal budgets."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from minimind.report.config import AblationConfig, Kind
from minimind.sweep.plan import SweepPlan, common_primary
from minimind.sweep.run import refuse_other_measurements
from minimind.sweep.trials import Trial, merged, trials_of_ablation, trials_of_grid
from minimind.utils.errors import ConfigError

Prepare = Callable[..., SweepPlan]


def ablation(**changes: object) -> AblationConfig:
    arms = {"a": ["model.norm=rmsnorm"], "b": ["optim=adamw"]}
    given = {"question": "?", "claim": "!", "baseline": "a", "arms": arms, "margin": 0.01}
    return AblationConfig(**(given | changes))  # type: ignore[arg-type]


def test_an_ablation_is_arms_times_seeds() -> None:
    trials = trials_of_ablation(ablation(common=["model.dropout=0.1"], seeds=[3, 5]), ["optim.lr=1", "ablation=x"])
    assert [(t.arm, t.replicate) for t in trials] == [("a", 3), ("b", 3), ("a", 5), ("b", 5)]
    assert trials[0].overrides == ("model.dropout=0.1", "optim.lr=1", "model.norm=rmsnorm", "seed=3")


def test_repeats_of_a_cost_ablation_alternate_in_order() -> None:
    trials = trials_of_ablation(ablation(kind=Kind.cost, repeats=3), [])
    assert [(t.arm, t.replicate) for t in trials] == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert len({t.overrides for t in trials}) == 6
    assert not any("seed=" in override for t in trials for override in t.overrides)


def test_the_command_line_replaces_common_overrides() -> None:
    assert merged(["a=1", "b=2"], ["a=3"]) == ("b=2", "a=3")
    (first, *_) = trials_of_ablation(ablation(common=["model.dropout=0.1"]), ["model.dropout=0.2"])
    assert "model.dropout=0.2" in first.overrides
    assert "model.dropout=0.1" not in first.overrides


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.norm=layernorm", "`model.norm` must not be set with this ablation: its arm `a` sets it"),
        ("optim=muon", "its arm `b` sets it"),
        ("optim.lr=1,2", "`optim.lr` must have a single value with an ablation"),
        ("seed=7", "use ablation.seeds="),
    ],
)
def test_what_an_arm_sets_is_refused_on_the_command_line(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trials_of_ablation(ablation(), [argument])
    assert message in str(caught.value)


def test_a_grid_has_an_arm_for_each_combination_except_of_seeds() -> None:
    trials = trials_of_grid(["optim.lr=1,2", "seed=1,2", "model.dropout=0", "model=nano,minimind_26m"], seed=9)
    assert len(trials) == 8
    assert {t.arm for t in trials} == {f"optim.lr={lr} model={m}" for lr in (1, 2) for m in ("nano", "minimind_26m")}
    assert {t.replicate for t in trials} == {1, 2}
    (alone,) = trials_of_grid(["model.dropout=0"], seed=9)
    assert (alone.arm, alone.replicate) == ("all", 9)
    with pytest.raises(ConfigError, match="but is an interval"):
        trials_of_grid(["optim.lr=interval(0,1)"], seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "c"}, "`ablation.baseline` must be one of the arms (a, b), but is c"),
        ({"arms": {"a": []}}, "`ablation.arms` must have at least two arms, but has 1"),
        ({"seeds": [1, 1]}, "`ablation.seeds` must be one or more distinct numbers"),
        ({"margin": -1.0}, "`ablation.margin` must be at least 0, but is -1.0"),
    ],
)
def test_invalid_ablations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ablation(**changes)
    assert message in str(caught.value)


def test_a_sweep_records_what_differs_and_where_its_runs_are(prepare: Prepare) -> None:
    planned = prepare("ablation=norm", "ablation.seeds=[1,2]", "trainer.max_steps=10", "schedule.warmup_steps=1")
    assert planned.sweep.differs == {"rmsnorm": [], "layernorm": ["model.norm"]}
    assert len(planned.jobs) == len({job.run for job in planned.sweep.jobs}) == 4
    assert all(job.run.startswith("runs/nano-stdlib-") for job in planned.sweep.jobs)
    assert planned.folder.name.startswith("norm-")
    again = prepare("ablation=norm", "ablation.seeds=[1,2]", "trainer.max_steps=10", "schedule.warmup_steps=1")
    assert again.folder == planned.folder
    assert prepare("ablation=norm", "ablation.seeds=[1,2]").folder != planned.folder


def test_all_mistakes_of_all_arms_are_reported_at_once(prepare: Prepare) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare("ablation=norm", '+ablation.arms.odd=["model.num_key_value_heads=3"]', "optim.lr=-1",
                '+ablation.arms.typo=["model.nrom=rmsnorm"]')  # fmt: skip
    common, odd, typo = caught.value.problems
    assert common.startswith("arm rmsnorm, layernorm, odd: `optim.lr`")  # `typo` fails before it can be checked
    assert odd.startswith("arm odd: ")
    assert typo.startswith("arm typo: ")
    assert "nrom" in typo


def test_jobs_with_the_same_identity_share_a_run(prepare: Prepare) -> None:
    planned = prepare("ablation=norm", '+ablation.arms.same=["model.norm=rmsnorm"]', "ablation.seeds=[1]")
    assert len(planned.sweep.jobs) == 3
    assert len(planned.jobs) == 2
    with pytest.raises(ConfigError) as caught:
        prepare("ablation=norm", '+ablation.arms.same=["model.norm=rmsnorm","trainer.log_every_steps=3"]')
    assert "arm same is the same run as another, except for trainer.log_every_steps" in str(caught.value)


@pytest.mark.parametrize("budget", ["tokens", "flops"])
def test_every_arm_has_the_budget_of_the_baseline(prepare: Prepare, budget: str) -> None:
    arms = '{half: ["trainer.batch_tokens=1024"], thin: ["model.hidden_size=64"]}'
    planned = prepare("ablation=norm", f"+ablation.arms={arms}", f"ablation.budget={budget}", "ablation.seeds=[1]")
    spent = {}
    for overrides, one in planned.jobs:
        cfg = one.plan.cfg
        assert cfg.trainer.max_steps is not None
        assert cfg.schedule.horizon_steps == cfg.trainer.max_steps
        tokens = cfg.trainer.max_steps * cfg.trainer.batch_tokens
        spent[overrides] = tokens * (cfg.model.flops_per_token(cfg.data.sequence_length) if budget == "flops" else 1)
    assert max(spent.values()) / min(spent.values()) < 1.001
    with pytest.raises(ConfigError, match=r"arm long must not set `trainer.max_steps`"):
        prepare("ablation=norm", '+ablation.arms.long=["trainer.max_steps=900"]', f"ablation.budget={budget}")


def test_runs_that_were_measured_differently_are_not_reused(prepare: Prepare) -> None:
    (_, one), *_ = prepare("ablation=kv_cache", "ablation.repeats=1").jobs
    one.plan.folder.path.mkdir(parents=True)
    one.plan.folder.config.write_text(one.frozen, encoding="utf-8")
    refuse_other_measurements([one.plan], "cost")
    (_, other), *_ = prepare("ablation=kv_cache", "ablation.repeats=1", "evaluation.decode_tokens=9").jobs
    assert other.plan.folder == one.plan.folder
    with pytest.raises(ConfigError, match=r"`evaluation.decode_tokens` must be 512, as when .* was measured, but is 9"):
        refuse_other_measurements([other.plan], "quality")
    (_, threads), *_ = prepare("ablation=kv_cache", "ablation.repeats=1", "trainer.num_threads=1").jobs
    refuse_other_measurements([threads.plan], "quality")
    with pytest.raises(ConfigError, match=r"`trainer.num_threads` must be None"):
        refuse_other_measurements([threads.plan], "cost")


@pytest.mark.parametrize(
    ("kind", "argument"), [(Kind.cost, "ablation.seeds=[1]"), (Kind.quality, "ablation.repeats=2")]
)
def test_what_would_be_ignored_is_refused(kind: Kind, argument: str) -> None:
    with pytest.raises(ConfigError, match=r"must not be set: an ablation of `kind: .*` does not use it"):
        trials_of_ablation(ablation(kind=kind), [argument])


def test_the_stored_command_has_all_arguments(prepare: Prepare) -> None:
    arguments = ["ablation=norm", "ablation.seeds=[1]", "hydra.launcher.num_parallel=2"]
    assert "hydra.launcher.num_parallel=2" in prepare(*arguments).sweep.command


def test_an_unknown_ablation_is_refused(prepare: Prepare) -> None:
    with pytest.raises(ConfigError, match="There is no ablation `norn`; did you mean `norm`"):
        prepare("ablation=norn")
    with pytest.raises(ConfigError, match="typo"):
        prepare("experiment=typo")


def test_the_metric_is_the_objectives_primary_one_unless_it_is_set(prepare: Prepare) -> None:
    assert prepare("optim.lr=1e-3,1e-2").sweep.metric == "val/loss"
    assert prepare("ablation=norm", "ablation.metric=null").sweep.metric == "val/loss"
    assert prepare("ablation=norm").sweep.metric == "val/bits_per_byte"
    assert prepare("ablation=norm", "ablation.metric=train/mfu").sweep.metric == "train/mfu"


def test_arms_with_different_primary_metrics_need_an_explicit_one() -> None:
    def composed(**primary: tuple[str, str]) -> Any:
        objectives = {arm: SimpleNamespace(primary=pair) for arm, pair in primary.items()}
        return {
            Trial(arm, 1, ()): SimpleNamespace(plan=SimpleNamespace(cfg=SimpleNamespace(objective=objective)))
            for arm, objective in objectives.items()
        }

    assert common_primary(composed(a=("val/chosen", "max"), b=("val/chosen", "max"))) == "val/chosen"
    with pytest.raises(ConfigError, match=r"`ablation.metric` must be set.* \(a: val/loss \(min\), b: val/x \(max"):
        common_primary(composed(a=("val/loss", "min"), b=("val/x", "max")))
