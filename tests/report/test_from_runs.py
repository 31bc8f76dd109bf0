"""`minimind report` on individually started runs."""

from pathlib import Path

import pytest
from made_sweeps import Maker, curve

from minimind.cli import main
from minimind.report.from_runs import sweep_of
from minimind.report.sweep_file import load_sweep
from minimind.utils.errors import UserError


def test_arms_are_the_settings_in_which_runs_differ(maker: Maker) -> None:
    folders = [
        maker.run(f"{norm}{rate}", seed, 2.0, settings={"model.norm": norm, "optim.lr": rate, "run.tag": f"t{seed}"})
        for norm, rate in (("rms", 0.1), ("layer", 0.1), ("rms", 0.2))
        for seed in (1, 2)
    ]
    sweep = sweep_of(folders, maker.root)
    assert list(sweep.arms) == ["norm=rms, lr=0.1", "norm=layer, lr=0.1", "norm=rms, lr=0.2"]
    assert sweep.baseline == "norm=rms, lr=0.1"
    assert sweep.differs == {"norm=layer, lr=0.1": ["model.norm"], "norm=rms, lr=0.2": ["optim.lr"]}
    assert [(job.replicate, job.run) for job in sweep.jobs[:2]] == [(1, "runs/rms0.1-1"), (2, "runs/rms0.1-2")]
    assert sweep_of(list(reversed(folders)), maker.root).name == sweep.name


def test_names_are_short_and_unambiguous(maker: Maker) -> None:
    two_kinds = {"data.kind": "jsonl", "tokenizer.kind": "file"}
    folders = [maker.run("a", 1, 2.0), maker.run("b", 1, 2.0, settings=two_kinds)]
    assert list(sweep_of(folders, maker.root).arms) == ["data.kind=text, tokenizer.kind=None",
                                                        "data.kind=jsonl, tokenizer.kind=file"]  # fmt: skip
    many = {"model.norm": "layer", "optim.lr": 0.5, "trainer.max_steps": 7, "data.packing": "pad"}
    sweep = sweep_of([folders[0], maker.run("c", 1, 2.0, settings=many)], maker.root)
    assert list(sweep.arms) == ["norm=rmsnorm, …", "norm=layer, …"]
    assert set(sweep.differs["norm=layer, …"]) == set(many)


def test_two_runs_of_one_arm_and_seed_are_refused(maker: Maker) -> None:
    folders = [maker.run(name, 1, 2.0, settings={"run.tag": name}) for name in ("a", "b")]
    with pytest.raises(UserError, match=r"a-1 and runs/b-1 are both `runs` with seed 1; leave one out"):
        sweep_of(folders, maker.root)
    with pytest.raises(UserError, match=r"has no config.yaml. Give runs/<run>"):
        sweep_of([maker.root], maker.root)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["minimind", "report", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    return main.main()


def test_the_report_command(maker: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folders = [str(maker.run(f"lr{rate}", seed, 2.0 + rate + seed**2 / 100, settings={"optim.lr": rate}))
               for rate in (0.1, 0.2) for seed in (1, 2, 3)]  # fmt: skip
    assert call(monkeypatch, *folders, "--baseline", "lr=0.2") == 0
    assert "`lr=0.1` is better".replace("`", "") in capsys.readouterr().out
    (sweep,) = (maker.root / "sweeps").iterdir()
    assert {path.name for path in sweep.iterdir()} == {
        "sweep.json",
        "report.md",
        "report.json",
        "report.png",
        "report.html",
    }
    assert load_sweep(sweep).baseline == "lr=0.2"
    assert call(monkeypatch, str(sweep), "--baseline", "lr=0.1", "--metric", "val/bits_per_byte") == 0
    output = capsys.readouterr().out
    assert "lr=0.2 is worse" in output
    assert "The baseline was chosen for this report; the sweep's own is lr=0.2." in output
    assert "The metric was chosen for this report" in output


def runs_of_kind(maker: Maker, kind: str) -> list[Path]:
    """Runs of two arms; lr=0.2 has the higher `val/chosen` throughout."""
    return [
        maker.run(
            f"{kind}{rate}", seed, 2.0, settings={"optim.lr": rate, "objective.kind": kind},
            rows=[{**row, "val/chosen": rate + row["step"] / 1000 + seed / 1e4} for row in curve(2.0, seed)],
        )
        for rate in (0.1, 0.2) for seed in (1, 2, 3)
    ]  # fmt: skip


def test_runs_are_compared_by_the_primary_metric_of_their_objective(
    maker: Maker, preference: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folders = runs_of_kind(maker, preference)
    assert sweep_of(folders, maker.root).metric == "val/chosen"
    assert call(monkeypatch, *map(str, folders)) == 0
    output = capsys.readouterr().out
    assert "On val/chosen, compared with lr=0.1: lr=0.2 is better by 0.1" in output
    assert "lr=0.2 has the best mean" in output
    (page,) = maker.root.glob("sweeps/*/report.md")
    assert "higher is better" in page.read_text()
    assert call(monkeypatch, *map(str, folders), "--metric", "val/loss") == 0
    assert "val/chosen" in (page.parent / "report.md").read_text()  # still a column


def test_runs_whose_objective_is_not_installed_are_compared_by_loss(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = runs_of_kind(maker, "gone")
    assert sweep_of(folders, maker.root).metric == "val/loss"
    assert call(monkeypatch, *map(str, folders)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "A sweep or run folder must exist"),
        (["runs/a-1", "--metric", "val/los"], "did you mean `val/loss`?"),
        (["runs/a-1", "--baseline", "x"], "The baseline must be one of the arms, but is x"),
    ],
)
def test_mistakes_are_explained(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    path: Path = maker.run("a", 1, 2.0)
    assert path.is_dir()
    assert call(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
