"""Publishes a sweep report to W&B: an artifact of a separate run in the group of the sweep's runs."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from minimind.tracking.config import WandbSettings
from minimind.utils.child import environment, python_module
from minimind.utils.paths import default_root

FILES = ("report.md", "report.html", "report.png", "report.json", "sweep.json")
START_TIMEOUT_S = 60.0  # for W&B to start; the time to finish is added
MIRROR = "wandb"


def publish_report(folder: Path, settings: WandbSettings) -> str | None:
    """Publishes from a separate process, which may fail or hang; returns a one-line error, or None."""
    try:
        done = subprocess.run(
            python_module("minimind.tracking.report_artifact", str(folder.absolute()), json.dumps(asdict(settings))),
            capture_output=True, text=True, timeout=START_TIMEOUT_S + settings.finish_timeout_s, cwd=default_root(),
            env=environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "it did not answer in time"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def publish(folder: Path, settings: WandbSettings) -> None:
    """Uploads the report as the newest version of its artifact, or writes it offline without an account."""
    import wandb

    from minimind.tracking.mirror import quiet_settings, why_offline

    shutil.rmtree(folder / MIRROR, ignore_errors=True)
    run = wandb.init(
        project=settings.project, entity=settings.entity, group=settings.group or folder.name, job_type="report",
        tags=settings.tags, name=folder.name, dir=str(folder), mode="offline" if why_offline() else "online",
        settings=quiet_settings(settings.finish_timeout_s),
    )  # fmt: skip
    artifact = wandb.Artifact(folder.name, type="report")
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    run.log_artifact(artifact)
    if (folder / "report.png").is_file():
        run.log({"report": wandb.Image(str(folder / "report.png"))})
    run.finish()


if __name__ == "__main__":
    publish(Path(sys.argv[1]), WandbSettings(**json.loads(sys.argv[2])))
