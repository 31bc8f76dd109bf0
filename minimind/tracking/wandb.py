"""Weights & Biases as a mirror of the run folder, in a separate process; offline without an account."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from minimind.runs.folder import RunFolder
from minimind.tracking.config import WandbSettings
from minimind.tracking.mirror import wandb_id
from minimind.tracking.mirror_process import EXIT_REPORTED, stopped_message
from minimind.tracking.run_logger import RunLogger
from minimind.utils.child import environment, python_module, start
from minimind.utils.paths import default_root
from minimind.utils.terminal import say


class WandbMirror(RunLogger):
    """Starts the mirror process, which reads the metrics from the run folder, and notifies it when the run ends."""

    def __init__(
        self, run: RunFolder, resume_step: int, *, project: str, entity: str | None, group: str | None, job_type: str,
        tags: list[str], notes: str | None, finish_timeout_s: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.run = run
        self.settings = WandbSettings(project, entity, group, job_type, tags, notes, finish_timeout_s)
        self.process: subprocess.Popen[bytes] | None = None
        self.reported = False
        run_id = wandb_id(run)
        self._version = run_id
        if os.environ.get("WANDB_MODE") == "disabled":
            return
        self.process = start(
            python_module("minimind.tracking.mirror_process", str(run.path.absolute())),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=default_root(),  # not the run folder; see cli/sync
            env=environment(OMP_NUM_THREADS="1", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false"),
        )  # fmt: skip
        self._send(asdict(self.settings))

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self._version

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Only checks that the mirror is alive; it reads the row from metrics.jsonl."""
        if self.process is not None and self.process.poll() is not None:
            self._report_stopped(self.process.returncode)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The mirror reads config.yaml."""

    def finish(self, exit_code: int) -> None:
        """Waits for the remaining writes and uploads, up to `finish_timeout_s`."""
        if self.process is None:
            return
        self._send({"exit_code": exit_code})
        try:
            self.process.communicate(timeout=self.settings.finish_timeout_s + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        if self.process.returncode != 0:
            self._report_stopped(self.process.returncode)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the mirror has stopped; reported at the next log point or at the end

    def _report_stopped(self, code: int) -> None:
        if not self.reported and code != EXIT_REPORTED:
            say(stopped_message(self.run, f"exit {code}"), file=sys.stderr)
        self.reported = True
