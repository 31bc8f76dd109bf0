"""Weights & Biases as a mirror of metrics.jsonl; without an account or a network it writes offline by itself."""

import os
import secrets
import sys
from typing import Any

from lightning.pytorch.loggers import Logger

from minimind.runs.folder import RunFolder


class WandbMirror(Logger):
    """One W&B run for the life of a run folder: its id is made once and stored, its steps are ours."""

    def __init__(
        self, run: RunFolder, config: dict[str, Any], *, project: str, entity: str | None = None,
        group: str | None = None, tags: list[str] | None = None, notes: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        import wandb

        run_id = run.status.get("wandb_id") or secrets.token_hex(4)
        run.update_status(wandb_id=run_id)
        offline = os.environ.get("WANDB_MODE", "offline" if wandb.api.api_key is None else "online") == "offline"
        self.run = wandb.init(
            project=project, entity=entity, group=group, tags=tags, notes=notes, name=run.path.name, id=run_id,
            resume="allow", dir=str(run.path), config=config, mode="offline" if offline else None,
            settings=wandb.Settings(silent=True),
        )  # fmt: skip
        if offline:
            print(f"W&B: offline. To upload: wandb sync {self.run.dir.removesuffix('/files')}", file=sys.stderr)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return str(self.run.id)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.log(metrics, step=step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is given when the run is made."""

    def finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)
