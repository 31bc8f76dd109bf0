"""What W&B is told about a run: enough to repeat it, and nothing of the machine that need not be known."""

from pathlib import Path
from typing import Any

from minimind.runs.folder import RunFolder
from minimind.runs.stored_config import read_config

RECORDED = ("command", "git_commit", "source_hash", "data_fingerprint", "versions", "auto", "parameters",
            "active_parameters")  # fmt: skip


def published_config(run: RunFolder) -> dict[str, Any]:
    """Every setting as in config.yaml, and under `record` what the settings do not say; paths from the root on."""
    config = read_config(run.config)
    status = {**run.status, "command": config["run"].get("command")}
    record = {"folder": run.path.name, **{name: status[name] for name in RECORDED if status.get(name) is not None}}
    return without_paths({**config, "record": record}, Path(config["paths"]["root"]))


def without_paths(value: Any, root: Path) -> Any:
    """The root's path becomes `.` and the home's `~`, in every text."""
    if isinstance(value, dict):
        return {key: without_paths(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner, root) for inner in value]
    if isinstance(value, str):
        for place, sign in ((root, "."), (Path.home(), "~")):
            if place != Path(place.anchor):
                value = sign if value == str(place) else value.replace(f"{place}/", f"{sign}/")
    return value
