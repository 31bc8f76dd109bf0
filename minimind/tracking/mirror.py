"""One W&B run made from a run folder: the folder is read, never the training process."""

import html
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from minimind.runs.folder import RunFolder
from minimind.runs.states import Exit, RunState
from minimind.tracking.config import WandbSettings
from minimind.tracking.points import Point, Points
from minimind.tracking.published import published_config
from minimind.utils.files import read_object


class Mirror:
    """Steps are the run's own; what W&B has of a run that it knows already is not told again."""

    def __init__(self, run: RunFolder, chosen: WandbSettings, *, folder: Path, online: bool, resume: bool) -> None:
        import wandb

        self.run = run
        self.points = Points(run)
        self.last_step = 0
        self.wandb_run = wandb.init(
            project=chosen.project, entity=chosen.entity, group=chosen.group, job_type=chosen.job_type,
            tags=chosen.tags, notes=chosen.notes, name=run.path.name, id=run.status["wandb_id"],
            resume="allow" if resume else None, dir=str(folder), config=published_config(run),
            mode="online" if online else "offline", settings=quiet_settings(chosen.finish_timeout_s),
        )  # fmt: skip
        self.known_before = self.wandb_run.step  # W&B's next step; 0 for a run that it does not know
        self.wandb_run.define_metric("step")
        self.wandb_run.define_metric("tokens")
        self.wandb_run.define_metric("*", step_metric="step")

    def feed(self, up_to: int | None = None) -> None:
        """Tells W&B what the folder has that is new."""
        for point in self.points.new():
            if point.step >= self.known_before and (up_to is None or point.step <= up_to):
                self.wandb_run.log(_as_logged(point), step=point.step)
                self.last_step = point.step

    def close(self, exit_code: int) -> None:
        if self.run.status.get("state") == RunState.FINISHED and exit_code == Exit.FINISHED:
            self._finish_with_results()
        if exit_code == Exit.PREEMPTED:
            self.wandb_run.mark_preempting()
        self.wandb_run.finish(exit_code=exit_code)

    def _finish_with_results(self) -> None:
        import wandb

        if self.run.loss_plot.is_file():
            self.wandb_run.log({"loss": wandb.Image(str(self.run.loss_plot))}, step=self.run.status["step"])
        self.wandb_run.summary.update(read_object(self.run.summary))


def quiet_settings(finish_timeout_s: float) -> Any:
    """Figures and nothing about the machine: no console, no environment, no names of host and user, no code."""
    import wandb

    return wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,
        x_disable_meta=True, x_save_requirements=False, host="-", username="-", email="-", init_timeout=20,
        finish_timeout=finish_timeout_s, finish_timeout_raises=True, x_transaction_log_flush_interval=1.0,
    )  # fmt: skip


def _as_logged(point: Point) -> dict[str, Any]:
    import wandb

    told: dict[str, Any] = {"step": point.step, **point.metrics}  # else W&B repeats the step before
    for name, histogram in point.histograms.items():
        edges = np.linspace(histogram["low"], histogram["high"], len(histogram["counts"]) + 1)
        told[name] = wandb.Histogram(np_histogram=(np.asarray(histogram["counts"]), edges))
    if point.samples:
        told["samples"] = wandb.Html("".join(_sample(sample) for sample in point.samples), inject=False)
    return told


def _sample(sample: dict[str, Any]) -> str:
    prompt, continuation = html.escape(sample["prompt"]), html.escape(sample["continuation"])
    return f"<pre><u>{prompt}</u>{continuation}</pre><hr>"


def wandb_id(run: RunFolder) -> str:
    """The id of the run at W&B, made once and stored; one that is no id is replaced, as W&B makes folders of it."""
    found = run.status.get("wandb_id")
    if not (isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found)):
        found = secrets.token_hex(4)
        run.update_status(wandb_id=found)
    return found
