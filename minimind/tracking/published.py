"""What W&B is told about a run: enough to repeat it, and nothing of the machine that need not be known."""

from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from minimind.runs.folder import RunFolder
from minimind.utils.files import read_settings

RECORDED = ("command", "git_commit", "source_hash", "data_fingerprint", "versions", "auto", "parameters",
            "active_parameters")  # fmt: skip


def published_config(run: RunFolder) -> dict[str, Any]:
    """Every setting as in config.yaml, and under `record` what the settings do not say; paths from the root on."""
    config = cast(dict[str, Any], OmegaConf.to_container(read_settings(run.config)))
    status = {**run.status, "command": config["run"].get("command")}
    record = {"folder": run.path.name, **{name: status[name] for name in RECORDED if status.get(name) is not None}}
    return without_places({**config, "record": record}, Path(config["paths"]["root"]))


def without_places(value: Any, root: Path) -> Any:
    """The root's path becomes `.` and the home's `~`, in every text."""
    if isinstance(value, dict):
        return {key: without_places(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner, root) for inner in value]
    if isinstance(value, str):
        for place, sign in ((root, "."), (Path.home(), "~")):
            if place != Path(place.anchor):
                value = sign if value == str(place) else value.replace(f"{place}/", f"{sign}/")
    return value
