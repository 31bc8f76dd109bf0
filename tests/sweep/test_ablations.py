"""Every ablation in conf/ is complete, and each of its arms trains for two steps."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from minimind.cli import train
from minimind.config.schema import register
from minimind.report.config import AblationConfig
from minimind.runs.folder import RunFolder
from minimind.sweep.trials import Trial, key_of, parse, trials_of_ablation
from minimind.utils.files import read_json
from minimind.utils.paths import conf_dir

ABLATIONS = sorted(path.stem for path in (conf_dir() / "ablation").glob("*.yaml"))
LISTED = ("activation attention balance batch_size depth_width document_mask dropout experts ffn_width "
          "gradient_checkpointing heads init kv_cache learning_rate moe norm norm_speed optimizer packing position "
          "precision qk_norm schedule shared_expert tying yarn")  # fmt: skip
# arms that set different keys: only an MoE has experts, only an untied head a learning rate, only a bias an update rate
DIFFERENT_KEYS = ("moe", "tying", "balance")
TINY = ["debug=smoke", "trainer.max_steps=2", "schedule.warmup_steps=0", "trainer.validate_every_steps=2",
        "trainer.checkpoint_every_steps=2", "trainer.batch_tokens=256", "data.sequence_length=32",
        "model.hidden_size=32", "model.num_hidden_layers=1", "model.vocab_size=300", "trainer.accelerator=cpu",
        "trainer.num_threads=1", "evaluation.max_new_tokens=2", "evaluation.decode_tokens=8",
        "callbacks=none"]  # fmt: skip


def ablation_named(name: str) -> AblationConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        ablation = OmegaConf.to_object(compose("train", overrides=[f"ablation={name}"]).ablation)
    assert isinstance(ablation, AblationConfig)
    return ablation


def arms_of(name: str) -> list[Trial]:
    """The first seed or repeat of each arm, as small as the arms allow."""
    ablation = ablation_named(name)
    arm_keys = {key_of(o) for overrides in ablation.arms.values() for o in parse(overrides)}
    if "data.sequence_length" in arm_keys:
        arm_keys.add("trainer.batch_tokens")  # must be a multiple of each
    overrides = [override for override in TINY if override.split("=")[0] not in arm_keys]
    trials = trials_of_ablation(ablation, overrides)
    return [trial for trial in trials if trial.replicate == trials[0].replicate]


def test_the_list_of_ablations() -> None:
    assert LISTED.split() == ABLATIONS


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_short_and_complete(name: str) -> None:
    text = (conf_dir() / "ablation" / f"{name}.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    assert {"question", "claim", "baseline", "arms", "metric", "margin"} <= set(yaml.safe_load(text))
    arms = ablation_named(name).arms
    keys = {arm: {key_of(o) for o in parse(overrides)} - {"run.tag"} for arm, overrides in arms.items()}
    assert len(set(map(frozenset, keys.values()))) == 1 or name in DIFFERENT_KEYS  # each arm sets all keys under test


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_arm_trains_for_two_steps(
    name: str, text_file: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metric, columns = ablation_named(name).metric, ablation_named(name).columns
    monkeypatch.setenv("MINIMIND_ROOT", str(root))
    for trial in arms_of(name):
        label = f"ablation_{name}_{trial.arm}"
        overrides = [*trial.overrides, "data=text", f"data.files=[{text_file}]", f"run.name={label}", "data.block_kb=1"]
        monkeypatch.setattr("sys.argv", ["train.py", *overrides])
        code = train.main()
        assert code == 0, (trial, capsys.readouterr().err)
        (folder,) = (root / "runs").glob(f"{label}-????????")
        assert RunFolder(folder).status["step"] == 2
        summary = read_json(folder / "summary.json")
        assert metric in summary
        dense = summary["parameters"] == summary["active_parameters"]
        assert all(column in summary for column in columns if not (dense and column.startswith("moe/")))
