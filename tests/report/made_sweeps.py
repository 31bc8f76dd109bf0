"""Makes run folders without training, using the same writers as a run."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from minimind.report.sweep_file import Sweep, SweepJob
from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_rows
from minimind.runs.states import RunState
from minimind.utils.files import write_json

SETTINGS = {
    "model.norm": "rmsnorm", "data.kind": "text", "data.sequence_length": 32, "tokenizer.vocab_size": 300,
    "optim.lr": 0.01, "trainer.max_steps": 100, "trainer.batch_tokens": 256, "trainer.precision": "auto",
    "trainer.log_every_steps": 10, "run.tag": None, "run.name": "made", "init_from": None,
}  # fmt: skip
STATUS = {
    "auto": {"precision": "32-true", "accelerator": "cpu", "num_threads": 1, "world_size": 1, "micro_batch": 8},
    "versions": {"python": "3.11.7", "torch": "2.13.0"}, "git_commit": "abc", "source_hash": "5" * 16,
    "data_fingerprint": "f" * 64, "machine": {"host": "here", "device": "A processor", "cores": 2},
}  # fmt: skip


class Maker:
    """Writes run folders below `root`, and a sweep of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs: list[SweepJob] = []

    def run(
        self, arm: str, seed: int, loss: float, *, state: str = RunState.FINISHED,
        settings: dict[str, Any] | None = None, metrics: dict[str, float] | None = None,
        rows: list[dict[str, Any]] | None = None, **status: Any,
    ) -> Path:  # fmt: skip
        """Writes a run whose curves fall to `loss`. `status`: fields that replace those of STATUS."""
        folder = RunFolder(self.root / "runs" / f"{arm}-{seed}".replace(" ", "_"))
        folder.path.mkdir(parents=True)
        config = OmegaConf.create()
        for key, value in {**SETTINGS, "seed": seed, **(settings or {})}.items():
            OmegaConf.update(config, key, value)
        folder.config.write_text(OmegaConf.to_yaml(config))
        rows = curve(loss, seed) if rows is None else rows
        append_rows(folder.metrics, rows)
        folder.update_status(state=state, step=100, tokens=25600, **{"reason": None, **STATUS, **status})
        if state == RunState.FINISHED:
            last = {key: value for row in rows for key, value in row.items()}
            bits = {"val/bits_per_byte": loss / 2, "parameters": 1000, "flops": 1e9, "memory/host_peak_mib": 500.0}
            write_json(
                folder.summary, {**last, **bits, "val/loss": loss, "compressors": {"xz -9": 1.7}, **(metrics or {})}
            )
        self.add(arm, seed, folder.path)
        return folder.path

    def add(self, arm: str, seed: int, path: Path) -> None:
        """Adds a job whose run is shared with another job or does not exist yet."""
        self.jobs.append(SweepJob(arm, seed, str(path.relative_to(self.root)), []))

    def sweep(self, baseline: str, **changes: Any) -> Path:
        """Writes sweep.json, in which every arm but the baseline may differ in model.norm; returns the sweep folder."""
        arms = list(dict.fromkeys(job.arm for job in self.jobs))
        sweep = Sweep(**{
            "name": "made", "command": "python train.py -m ablation=norm", "kind": "quality", "baseline": baseline,
            "metric": "val/loss", "arms": {arm: [f"model.norm={arm}"] for arm in arms}, "jobs": self.jobs,
            "question": "Does the norm matter?", "margin": 0.01, "budget": "steps",
            "differs": {arm: ["model.norm"] for arm in arms if arm != baseline}, **changes,
        })  # fmt: skip
        folder = self.root / "sweeps" / "made-00000000"
        sweep.save(folder)
        return folder


def curve(loss: float, seed: int, points: int = 10) -> list[dict[str, Any]]:
    """Rows of a run whose loss falls by 5 to `loss`; every other row has a validation loss."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(1, points + 1):
        now = loss + 5 * float(np.exp(-6 * number / points)) + 0.02 * float(random.normal())
        row = {"step": 10 * number, "tokens": 2560 * number, "elapsed_s": 0.5 * number, "train/loss": now,
               "train/tokens_per_second": 100.0 if number == 1 else 5000.0 + number, "train/mfu": 0.1}  # fmt: skip
        rows.append({**row, "val/loss": now + 0.1} if number % 2 == 0 else row)
    return rows
