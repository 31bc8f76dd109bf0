"""One W&B run made from a run folder: it reads the folder, never the training process."""

import html
import os
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from minimind.runs.folder import RunFolder
from minimind.runs.states import Exit, RunState
from minimind.runs.stored_config import read_config
from minimind.tracking.config import WandbSettings
from minimind.tracking.points import Point, Points
from minimind.utils.files import read_object

RECORDED = ("command", "git_commit", "source_hash", "data_fingerprint", "versions", "auto", "parameters",
            "active_parameters")  # fmt: skip


class Mirror:
    """Logs under the run's own steps; steps that W&B already has are not sent again."""

    def __init__(self, run: RunFolder, settings: WandbSettings, *, folder: Path, online: bool, resume: bool) -> None:
        import wandb

        self.run = run
        self.points = Points(run)
        self.wandb_run = wandb.init(
            project=settings.project, entity=settings.entity, group=settings.group, job_type=settings.job_type,
            tags=settings.tags, notes=settings.notes, name=run.path.name, id=run.status["wandb_id"],
            resume="allow" if resume else None, dir=str(folder), config=published_config(run),
            mode="online" if online else "offline", settings=quiet_settings(settings.finish_timeout_s),
        )  # fmt: skip
        self.next_step = self.wandb_run.step  # as W&B has it; 0 for a new run
        self.wandb_run.define_metric("step")
        self.wandb_run.define_metric("tokens")
        self.wandb_run.define_metric("*", step_metric="step")

    def feed(self, up_to: int | None = None) -> None:
        """Logs what was added to the folder since the last call."""
        for point in self.points.new():
            if point.step >= self.next_step and (up_to is None or point.step <= up_to):
                self.wandb_run.log(_wandb_values(point), step=point.step)

    def close(self, exit_code: int) -> None:
        if self.run.status.get("state") == RunState.FINISHED and exit_code == Exit.FINISHED:
            self._log_results()
        if exit_code == Exit.PREEMPTED:
            self.wandb_run.mark_preempting()
        self.wandb_run.finish(exit_code=exit_code)

    def _log_results(self) -> None:
        import wandb

        if self.run.loss_plot.is_file():
            self.wandb_run.log({"loss": wandb.Image(str(self.run.loss_plot))}, step=self.run.status["step"])
        self.wandb_run.summary.update(read_object(self.run.summary))


def why_offline() -> str | None:
    """The reason to write offline, or None where W&B can be reached; never prompts, but may take seconds."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return "as WANDB_MODE says"
    try:
        return None if wandb.login(prompt=False) else "no API key"
    except Exception as error:  # wandb's own types, for a rejected key or a missing network
        return f"{error}".split("\n")[0].rstrip(".") or type(error).__name__


def wandb_id(run: RunFolder) -> str:
    """The run's W&B id, created once and stored; an invalid one is replaced, since W&B names folders after it."""
    stored = run.status.get("wandb_id")
    if not (isinstance(stored, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", stored)):
        stored = secrets.token_hex(4)
        run.update_status(wandb_id=stored)
    return stored


def quiet_settings(finish_timeout_s: float) -> Any:
    """W&B settings that send metrics only: no console, environment, host name, user name or code."""
    import wandb

    return wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,
        x_disable_meta=True, x_save_requirements=False, host="-", username="-", email="-", init_timeout=20,
        finish_timeout=finish_timeout_s, finish_timeout_raises=True, x_transaction_log_flush_interval=1.0,
    )  # fmt: skip


def published_config(run: RunFolder) -> dict[str, Any]:
    """All settings in config.yaml, plus `record`: what else is needed to repeat the run. Paths are shortened."""
    config = read_config(run.config)
    status = {**run.status, "command": config["run"].get("command")}
    record = {"folder": run.path.name, **{name: status[name] for name in RECORDED if status.get(name) is not None}}
    return shorten_paths({**config, "record": record}, Path(config["paths"]["root"]))


def shorten_paths(value: Any, root: Path) -> Any:
    """Replaces `root` by `.` and the home folder by `~` in all strings, so that neither is published."""
    if isinstance(value, dict):
        return {key: shorten_paths(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [shorten_paths(inner, root) for inner in value]
    if isinstance(value, str):
        for folder, short in ((root, "."), (Path.home(), "~")):
            if folder != Path(folder.anchor):
                value = short if value == str(folder) else value.replace(f"{folder}/", f"{short}/")
    return value


def _wandb_values(point: Point) -> dict[str, Any]:
    import wandb

    values: dict[str, Any] = {"step": point.step, **point.metrics}  # without `step` W&B repeats the previous one
    for name, histogram in point.histograms.items():
        edges = np.linspace(histogram["low"], histogram["high"], len(histogram["counts"]) + 1)
        values[name] = wandb.Histogram(np_histogram=(np.asarray(histogram["counts"]), edges))
    if point.samples:
        values["samples"] = wandb.Html("".join(_sample_html(sample) for sample in point.samples), inject=False)
    return values


def _sample_html(sample: dict[str, Any]) -> str:
    prompt, continuation = html.escape(sample["prompt"]), html.escape(sample["continuation"])
    return f"<pre><u>{prompt}</u>{continuation}</pre><hr>"
