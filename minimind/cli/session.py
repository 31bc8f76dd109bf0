"""A training run: data, model, fit, and the final summary."""

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from minimind.config.build import (
    build_callbacks,
    build_data,
    build_trainer,
    layout_of,
    steps_of,
    stored_or_resolved,
    with_steps,
)
from minimind.config.checks import check_frozen, check_same_tokenizer, check_tokenizer
from minimind.config.classes import factories
from minimind.config.resume import refuse_fewer_steps
from minimind.config.schema import TrainConfig
from minimind.data.corpora import STDLIB_PROMPTS
from minimind.data.datamodule import DataModule
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData, prepare, verify
from minimind.evaluation.final import context_metrics, decoding_metrics
from minimind.evaluation.text_loss import TextMeasure, compressor_baselines
from minimind.generation.engine import Sampler
from minimind.generation.sampling import SamplingConfig
from minimind.objectives.config import ObjectiveConfig
from minimind.parallel.collectives import from_main, main_first
from minimind.report.metrics import best_key
from minimind.report.plotting import plot_loss
from minimind.report.summary import print_summary
from minimind.runs.checkpoints import STATE, TOKENIZER, checkpoint_of, resume_point
from minimind.runs.folder import RunFolder, step_of
from minimind.runs.metrics_file import check_rows, read_rows, truncate_after
from minimind.runs.source import git_commit, source_hash, versions
from minimind.runs.states import RunState
from minimind.runs.stop import StopRequest
from minimind.runs.stored_config import write_config
from minimind.tracking.run_logger import RunLogger
from minimind.training.assembly import assemble, build_objective
from minimind.training.callbacks.samples import log_samples
from minimind.training.checkpoint import require_training_state
from minimind.training.model_file import stored_model
from minimind.training.parts import Best, MetricsWriter, RunParts
from minimind.utils.errors import UserError
from minimind.utils.files import write_json
from minimind.utils.hardware import autocast, describe_machine, keep_freed_memory, peak_memory
from minimind.utils.paths import find_existing
from minimind.utils.ranks import global_rank, is_main_process, world_size
from minimind.utils.seeding import seed_everything
from minimind.utils.terminal import say

PROMPT_TOKENS = 24  # from the start of held-out documents, used as prompts where the corpus has none


class Session:
    """One run as seen by one rank; only rank 0 writes to the run folder."""

    def __init__(self, cfg: TrainConfig, config: dict[str, Any], run: RunFolder, stop: StopRequest) -> None:
        self.config, self.run, self.stop = config, run, stop
        self.chosen_callbacks = [make() for make in factories(cfg.callbacks, "callbacks", pl.Callback)]
        loggers = {name: node for name, node in cfg.logger.items() if name != "watch"}
        self.logger_factories = factories(loggers, "logger", RunLogger, given=("run", "resume_step"))
        self.loggers: list[RunLogger] = []
        self.started = False  # whether status.json says `running`
        self.auto = from_main(lambda: stored_or_resolved(cfg, run.status.get("auto", {})))
        torch.set_num_threads(self.auto["num_threads"])
        check_tokenizer(cfg)
        self.resume_from = from_main(lambda: resume_point(run))
        # Only needed at the first start: a run resumed on another machine may not have it.
        initial_weights = cfg.init_from if self.resume_from is None else None
        self.init_from = checkpoint_of(find_existing(initial_weights, "init_from")) if initial_weights else None
        if self.init_from is not None:
            stored_model(self.init_from)  # refused before data are prepared: unknown settings, a class of others
        self.frozen = self._frozen(cfg.objective)
        self.data: PreparedData = main_first(lambda: prepare(cfg.data, cfg.tokenizer, Path(cfg.paths.cache)))
        self.tokenizer = self.data.tokenizer
        from_main(lambda: verify(self.data, self.tokenizer, cfg.data.verify))
        self.cfg = with_steps(cfg, self._max_steps(cfg))
        self.sampler = Sampler(
            self.tokenizer, self._prompts(), SamplingConfig(cfg.evaluation.temperature, top_p=cfg.evaluation.top_p),
            cfg.evaluation.max_new_tokens, cfg.seed,
        )  # fmt: skip

    @staticmethod
    def _frozen(objective: ObjectiveConfig) -> dict[str, Path]:
        """Checkpoints of the frozen models; rank 0 picks them for all ranks, since a running run may save new ones."""
        paths = objective.frozen()
        checkpoints = from_main(
            lambda: [checkpoint_of(find_existing(path, f"objective.{name}")) for name, path in paths.items()]
        )
        return dict(zip(paths, checkpoints, strict=True))

    def _max_steps(self, cfg: TrainConfig) -> int:
        """The configured steps, or those of the configured epochs: counted once and stored in `auto`."""
        epochs = cfg.trainer.epochs
        if epochs is None:
            assert cfg.trainer.max_steps is not None
            return cfg.trainer.max_steps
        if self.auto.get("epochs") != epochs:
            self.auto = {**self.auto, "epochs": epochs, "max_steps": steps_of(epochs, cfg, self.data)}
        return self.auto["max_steps"]

    def start(self) -> None:
        """Builds the model and loads its initial weights; only then writes to the run folder."""
        from_main(self.run.require_in_place)  # preparing the data may have taken hours
        if self.resume_from is not None:
            assert self.cfg.trainer.max_steps is not None  # set by `with_steps`
            epochs = self.config["trainer"]["epochs"]
            refuse_fewer_steps(self.cfg.trainer.max_steps, step_of(self.resume_from), epochs)
        from_main(lambda: check_same_tokenizer(self.tokenizer, self.resume_from, self.init_from))
        if self.resume_from is not None:
            require_training_state(self.resume_from)
        weights = self.resume_from or self.init_from
        objective = build_objective(self.cfg.objective, data=self.cfg.data, tokenizer=self.tokenizer)
        self.module = assemble(self.cfg, objective, weights=weights, frozen=self.frozen)
        from_main(self._check_data)
        self.frozen_hashes = from_main(lambda: check_frozen(self.tokenizer, self.frozen, self.run.status))
        from_main(self._start)
        self.run.update_path()

    def _check_data(self) -> None:
        run, status = self.run, self.run.status
        if status and status.get("data_fingerprint") != self.data.fingerprint and not self.cfg.run.accept_data_change:
            raise UserError(
                f"The data has changed since {run.path.name} was started; use run.accept_data_change=true to continue "
                "with the new data, or run.fresh=true to start again."
            )

    def _start(self) -> None:
        run = self.run
        run.require_in_place()
        for file in (run.metrics, run.samples, run.histograms):
            check_rows(file)
        if run.replaces is not None:
            say(f"run.fresh: the old run folder is now {run.replace_old().name}.", file=sys.stderr)
        status = run.status
        source = source_hash()
        if status and status.get("source_hash") != source:
            say("The source code has changed since this run was started.", file=sys.stderr)
        run.remove_leftovers()
        write_config(run.config, self.config)
        self.tokenizer.save(run.path / TOKENIZER)
        run.update_status(
            state=RunState.RUNNING, reason=None, step=status.get("step", 0), tokens=status.get("tokens", 0),
            auto=self.auto, versions=versions(), git_commit=git_commit(), source_hash=source,
            data_fingerprint=self.data.fingerprint, **({"frozen": self.frozen_hashes} if self.frozen else {}),
            parameters=self.cfg.model.num_parameters(), active_parameters=self.cfg.model.num_parameters(active=True),
            machine=describe_machine(torch.device(self.auto["accelerator"])),
        )  # fmt: skip
        self.started = True
        step = 0 if self.resume_from is None else step_of(self.resume_from)
        for file in (run.metrics, run.samples, run.histograms):
            truncate_after(file, step)
        if self.resume_from is not None:
            say(f"Resuming {run.path} from step {step}.", file=sys.stderr)
            if not run.metrics.is_file():
                say(f"Warning: {run.metrics} is missing; its rows up to step {step} are lost.", file=sys.stderr)

    def fit(self) -> None:
        """Trains to the last step, with validation and checkpoints."""
        cfg = self.cfg
        keep_freed_memory()
        data = build_data(cfg, self.module.objective, self.data, layout_of(cfg, self.auto))
        if is_main_process():
            self._announce(data)
        self.parts = RunParts(self.run, MetricsWriter(self.run), Best(cfg.objective.primary), self.sampler)
        self.metrics, callbacks = build_callbacks(cfg, self.parts, self.auto, self.chosen_callbacks, self.stop)
        from_main(self._start_loggers)
        trainer = build_trainer(cfg, self.auto, callbacks, self.loggers)
        self._seed()
        ckpt_path = None if self.resume_from is None else self.resume_from / STATE
        self.stop.listen()
        try:
            trainer.fit(self.module, data, ckpt_path=ckpt_path)
            if self.metrics.validated_step != trainer.global_step:
                trainer.validate(self.module, data, verbose=False)
        finally:
            self.stop.stop_listening()

    def finish(self) -> None:
        """Writes the final metrics, samples and loss plot, and prints the summary."""
        self.run.require_in_place()
        flops_per_token = self.cfg.model.flops_per_token(self.cfg.data.sequence_length)
        device = torch.device(self.auto["accelerator"])
        self.module.model.to(device)  # Lightning moves it to the CPU when training ends
        summary = {
            **self.parts.writer.latest,
            **peak_memory(device),
            "flops": flops_per_token * self.metrics.tokens,
            "parameters": self.cfg.model.num_parameters(),
            "active_parameters": self.cfg.model.num_parameters(active=True),
            best_key(self.parts.best.metric): self.parts.best.value,
            **self._optional_metrics(),
        }
        if compressors := compressor_baselines(self.data.streams(VALIDATION), self.tokenizer):
            summary["compressors"] = compressors
        step = summary["step"]
        samples = [sample for sample in read_rows(self.run.samples) if sample["step"] == step]
        if not samples:
            samples = self.sampler(self.module.model, step)
            log_samples(self.run, self.loggers, samples)
        plot_loss(self.run.metrics, self.run.loss_plot, self.run.path.name)
        summary["command_s"] = round(time.time() - self.stop.since, 1)
        write_json(self.run.summary, summary)
        self.run.update_status(
            state=RunState.FINISHED, step=step, tokens=summary["tokens"], reason=self.parts.stopped_early
        )
        print_summary(summary, samples, self.run.path)

    def _optional_metrics(self) -> dict[str, float]:
        """The metrics that `evaluation` can enable."""
        cfg, model = self.cfg, self.module.model
        metrics: dict[str, float] = {}
        if cfg.evaluation.context_factors:
            with autocast(self.auto["precision"], model.device):
                metrics |= context_metrics(
                    model, self.data.streams(VALIDATION)[0], cfg.data, TextMeasure(self.tokenizer),
                    cfg.evaluation.context_factors, yarn=cfg.evaluation.yarn,
                )  # fmt: skip
        if cfg.evaluation.decode_tokens:
            metrics |= decoding_metrics(model, cfg.evaluation.decode_tokens)
        return metrics

    def close(self, exit_code: int) -> None:
        """Closes the loggers with the exit code of the run."""
        for logger in self.loggers:
            logger.finish(exit_code)

    def _start_loggers(self) -> None:
        step = 0 if self.resume_from is None else step_of(self.resume_from)
        for make in self.logger_factories:
            self.loggers.append(make(run=self.run, resume_step=step))

    def _seed(self) -> None:
        """Seeds this rank; a resumed rank gets its generators from the checkpoint, unless it is new: hence `/from`."""
        stream = f"training/rank{global_rank()}"
        if self.resume_from is not None:
            stream += f"/from{step_of(self.resume_from)}"
        seed_everything(self.cfg.seed, stream)

    def _announce(self, data: DataModule) -> None:
        model, auto = self.cfg.model, self.auto
        total, active = model.num_parameters(), model.num_parameters(active=True)
        size = f"{total / 1e6:.2f}M parameters" + (f", {active / 1e6:.2f}M active" if active != total else "")
        tokens = sum(len(stream) for stream in self.data.streams(TRAIN))
        examples = sum(source.examples.num_examples for source in data.mixture.sources)
        processes = f"{world_size()} processes, each: " if world_size() > 1 else ""
        threads = auto["num_threads"]
        say(
            f"{self.run.path.name}: {size}; {tokens / 1e6:.2f}M training tokens in {examples:,} examples, "
            f"{data.num_steps * data.batch_examples / examples:.2f} epochs in {data.num_steps:,} steps; "
            f"{processes}{auto['accelerator']}, {auto['precision']}, {threads} thread{'' if threads == 1 else 's'}",
            file=sys.stderr,
        )

    def _prompts(self) -> list[str]:
        if self.cfg.evaluation.prompts:
            return self.cfg.evaluation.prompts
        if self.cfg.data.kind == "stdlib":
            return STDLIB_PROMPTS
        stream = self.data.streams(VALIDATION)[0]
        documents = (stream.document(i)[:PROMPT_TOKENS].tolist() for i in range(min(3, stream.num_documents)))
        return [self.tokenizer.decode(tokens) for tokens in documents]
