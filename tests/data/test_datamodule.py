"""Mixtures in the whole training loop: the metrics of each source, validation, and the number of steps."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from streams import write_stream

from minimind.cli.processes import quiet_libraries
from minimind.config.build import build_callbacks, build_data, build_trainer, layout_of, steps_of, with_steps
from minimind.config.schema import TrainConfig
from minimind.data.config import Packing, TextConfig
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData, PreparedSource
from minimind.evaluation.loop import evaluate
from minimind.model.config import ModelConfig
from minimind.objectives.config import PretrainConfig
from minimind.optim.config import ScheduleConfig
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.runs.stop import StopRequest
from minimind.runs.stored_config import write_config
from minimind.tokenizer.bpe import BPE
from minimind.training.assembly import assemble, build_objective
from minimind.training.callbacks.early_stopping import EarlyStopping
from minimind.training.config import TrainerConfig
from minimind.training.parts import Best, MetricsWriter, RunParts
from minimind.utils.errors import ConfigError, UserError

AUTO = {"accelerator": "cpu", "precision": "32-true", "micro_batch": 2, "num_threads": 1}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    """Two sources of a few hundred tokens with weights 3 and 1."""
    tokenizer = tmp_path / "tokenizer.json"
    BPE.train(["a few words of text"], 300).save(tokenizer)
    sources = []
    for number, (name, weight) in enumerate([("code", 3.0), ("prose", 1.0)]):
        for split, count in ((TRAIN, 12), (VALIDATION, 4)):
            write_stream(tmp_path / name / split, [7] * count, first=100 * number)
        sources.append(PreparedSource(name, weight, tmp_path / name))
    return PreparedData(sources, tokenizer)


def config(**data: Any) -> TrainConfig:
    model = ModelConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                        num_key_value_heads=1, max_position_embeddings=16)  # fmt: skip
    trainer = TrainerConfig(max_steps=8, batch_tokens=32, log_every_steps=2, validate_every_steps=4)
    cfg = TrainConfig(
        model=model, data=TextConfig(files=["a"], sequence_length=8, **data), objective=PretrainConfig(),
        trainer=trainer,
    )  # fmt: skip
    return with_steps(cfg, 8)


def train(cfg: TrainConfig, data: PreparedData, folder: Path, *extra: pl.Callback) -> list[dict[str, Any]]:
    """Train and return the rows of metrics.jsonl."""
    run = RunFolder(folder)
    folder.mkdir()
    write_config(run.config, {"model": cfg.model.to_dict()})
    data.tokenizer.save(folder / "tokenizer.json")
    module = assemble(cfg, build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer))
    parts = RunParts(run, MetricsWriter(run), Best(cfg.objective.primary), sampler=cast(Any, None))
    _, callbacks = build_callbacks(cfg, parts, AUTO, list(extra), StopRequest())
    build_trainer(cfg, AUTO, callbacks, []).fit(module, build_data(cfg, module.objective, data, layout_of(cfg, AUTO)))
    return read_rows(run.metrics)


@pytest.mark.parametrize("options", [{}, {"document_mask": True}, {"packing": Packing.pad}, {"num_workers": 1}])
def test_a_mixture_logs_metrics_of_each_source(options: dict[str, Any], data: PreparedData, tmp_path: Path) -> None:
    rows = train(config(**options), data, tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    num_examples = 12 if "packing" in options else 11
    for row in rows:
        assert row["data/code/fraction"] == 0.75
        assert row["data/prose/fraction"] == 0.25
        assert row["data/code/epoch"] == 0.75 * 4 * row["step"] / num_examples
    for row in (rows[1], rows[3]):
        code, prose = row["val/code/loss"], row["val/prose/loss"]
        assert code != prose
        assert row["val/loss"] == pytest.approx((code + prose) / 2)  # both have the same number of tokens
        assert {"val/code/bits_per_byte", "val/prose/bits_per_byte"} <= set(row)


def test_a_single_source_has_no_metrics_of_its_own(data: PreparedData, tmp_path: Path) -> None:
    rows = train(config(), PreparedData(data.sources[:1], data.tokenizer_path), tmp_path / "run")
    assert not [key for row in rows for key in row if key.startswith("data/") or "code" in key]


def test_validation_counts_every_token_once_for_any_packing(data: PreparedData) -> None:
    counted = []
    for options in ({}, {"document_mask": True}, {"packing": Packing.pad}):
        cfg = config(**options)
        module = assemble(cfg, build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer))
        total = module.objective.metric(module.model)
        sources = build_data(cfg, module.objective, data, layout_of(cfg, AUTO)).val_dataloader().sources
        evaluate(module.model, module.objective, sources, total)
        counted.append(int(total.num_tokens))  # type: ignore[arg-type]
    assert counted == [2 * (4 * 7 - 1)] * 3


def test_epochs_count_windows_or_documents(data: PreparedData) -> None:
    alone = PreparedData(data.sources[:1], data.tokenizer_path)
    assert steps_of(2.0, config(), alone) == 6  # 11 windows twice, 4 per step
    assert steps_of(2.0, config(packing=Packing.pad), alone) == 6  # 12 documents twice
    assert steps_of(0.1, config(packing=Packing.pad), alone) == 1


def test_the_number_of_steps_is_the_horizon_of_the_schedule_unless_it_has_one() -> None:
    cfg = TrainConfig(data=TextConfig(files=["a"]), trainer=TrainerConfig(max_steps=None, epochs=1.0))
    assert with_steps(cfg, 70).schedule.horizon_steps == 70
    cfg.schedule = ScheduleConfig(horizon_steps=90)
    assert with_steps(cfg, 70).schedule.horizon_steps == 90
    cfg.schedule = ScheduleConfig(warmup_steps=80)
    with pytest.raises(ConfigError, match=r"`schedule\.warmup_steps` must be between 0 and `schedule\.horizon_steps`"):
        with_steps(cfg, 70)


@pytest.mark.parametrize("options", [{}, {"max_steps": 5, "epochs": 1.0}])
def test_the_length_is_given_in_either_steps_or_epochs(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"`trainer\.max_steps` or `trainer\.epochs` must be set"):
        TrainerConfig(**{"max_steps": None, **options})


def test_the_data_module_widens_examples_on_their_way_to_the_model(data: PreparedData) -> None:
    cfg = config(document_mask=True)
    objective = build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer)
    datamodule = build_data(cfg, objective, data, layout_of(cfg, AUTO))
    step = next(iter(datamodule.train_dataloader()))
    for batch in datamodule.transfer_batch_to_device(step, torch.device("cpu"), 0):
        assert batch.input_ids.dtype is torch.int64
        assert batch.document_ids is not None
        assert batch.position_ids is not None


def test_the_primary_metric_must_be_one_that_validation_computes(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretrainConfig, "primary", ("val/hits", "max"))
    with pytest.raises(
        ValueError, match=r"primary metric is val/hits, but its validation returned val/loss, val/perplexity"
    ):
        train(config(), data, tmp_path / "run")


def test_data_without_a_single_example_is_rejected(data: PreparedData, tmp_path: Path) -> None:
    write_stream(tmp_path / "code" / "short" / VALIDATION, [1])
    write_stream(tmp_path / "code" / "short" / TRAIN, [9])
    short = PreparedData([PreparedSource("code", 1.0, tmp_path / "code" / "short")], data.tokenizer_path)
    cfg = config()
    objective = build_objective(cfg.objective, data=cfg.data, tokenizer=data.tokenizer)
    with pytest.raises(UserError, match="held-out data must contain at least one example"):
        build_data(cfg, objective, short, layout_of(cfg, AUTO))


def test_early_stopping_still_saves_the_best_checkpoint(data: PreparedData, tmp_path: Path) -> None:
    """The last validation is the best one, but its improvement is below the threshold of early stopping."""
    stop = EarlyStopping(patience=1, min_delta=100.0, every_steps=1)
    train(config(), data, tmp_path / "run", stop)
    status = RunFolder(tmp_path / "run").status
    rows = [row for row in read_rows(RunFolder(tmp_path / "run").metrics) if "val/loss" in row]
    best = min(rows, key=lambda row: row["val/loss"])
    assert len(rows) == 2
    assert status["best_checkpoint"] == f"step_{best['step']:08d}"
    assert best["step"] == 8
