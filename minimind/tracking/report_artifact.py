"""The report of a sweep at W&B: an artifact of a run of its own, in the group of the sweep's runs."""

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
START_S = 60.0  # for W&B to begin, besides the time it has to finish
MIRROR = "wandb"


def publish_report(folder: Path, chosen: WandbSettings) -> str | None:
    """In a process of its own, which may fail or hang without harm; what went wrong, in a line, or None."""
    settings = json.dumps(asdict(chosen))
    try:
        done = subprocess.run(
            python_module("minimind.tracking.report_artifact", str(folder.absolute()), settings),
            capture_output=True, text=True, timeout=START_S + chosen.finish_timeout_s, cwd=default_root(),
            env=environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "it did not answer in time"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def publish(folder: Path, chosen: WandbSettings) -> None:
    """Offline without an account; a report that was published before is replaced by a version that is newer."""
    import wandb

    from minimind.tracking.account import why_offline
    from minimind.tracking.mirror import quiet_settings

    shutil.rmtree(folder / MIRROR, ignore_errors=True)
    run = wandb.init(
        project=chosen.project, entity=chosen.entity, group=chosen.group or folder.name, job_type="report",
        tags=chosen.tags, name=folder.name, dir=str(folder), mode="offline" if why_offline() else "online",
        settings=quiet_settings(chosen.finish_timeout_s),
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
