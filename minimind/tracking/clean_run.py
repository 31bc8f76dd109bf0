"""One offline W&B run built from a run folder: complete and without duplicate points, however often it was stopped."""

import shutil
from dataclasses import fields
from pathlib import Path

from minimind.runs.folder import RunFolder, step_of
from minimind.runs.links import refuse_links
from minimind.runs.lock import is_held
from minimind.runs.metrics_file import read_rows
from minimind.runs.states import Exit, RunState
from minimind.runs.stored_config import read_config
from minimind.tracking.config import WandbSettings
from minimind.tracking.mirror import Mirror, wandb_id
from minimind.utils.errors import UserError

FOLDER = "wandb_sync"
EXIT_CODES = {RunState.FAILED: Exit.FAILED, RunState.PREEMPTED: Exit.PREEMPTED}


def build(path: Path) -> tuple[Path, int, int]:
    """Rebuilds the clean run; returns its folder, number of rows and last step.

    A run that is still running or was killed is included up to its last checkpoint: later steps may be trained again.

    Raises:
        UserError: `path` is not a run folder, has no metrics yet, or W&B cannot write to it.
    """
    run = RunFolder(path)
    status = run.status
    if not status or not run.config.is_file():
        raise UserError(f"{path} must be a run folder, but has no status.json; name runs/<run>.")
    refuse_links(path)
    if "wandb_id" not in status and is_held(run.lock):
        raise UserError(f"{path.name} is running without logger=wandb; sync it when it has ended.")
    wandb_id(run)
    unfinished = status["state"] == RunState.RUNNING
    checkpoints = run.complete_checkpoints()
    last = step_of(checkpoints[-1]) if checkpoints else 0
    rows = [row for row in read_rows(run.metrics) if not unfinished or row["step"] <= last]
    if not rows:
        raise UserError(f"{path.name} has no metrics up to its last checkpoint (step {last}) yet.")
    shutil.rmtree(path / FOLDER, ignore_errors=True)
    try:
        (path / FOLDER).mkdir()
        mirror = Mirror(run, stored_settings(run), folder=path / FOLDER, online=False, resume=False)
        mirror.feed(up_to=last if unfinished else None)
        mirror.close(EXIT_CODES.get(status["state"], Exit.FINISHED))
    except OSError as error:
        raise UserError(f"{path / FOLDER} must be writable, but: {error}") from None
    (clean,) = (path / FOLDER / "wandb").glob("offline-run-*")
    return clean, len(rows), rows[-1]["step"]


def stored_settings(run: RunFolder) -> WandbSettings:
    """The W&B settings in the run's config.yaml; defaults where the run did not log to W&B."""
    logger = read_config(run.config).get("logger") or {}
    known = {field.name for field in fields(WandbSettings)}
    return WandbSettings(**{name: value for name, value in (logger.get("wandb") or {}).items() if name in known})
