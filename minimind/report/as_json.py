"""report.json: every number of a report in machine-readable form."""

import math
from dataclasses import asdict
from typing import Any

from minimind.report.analysis import Arm, Report
from minimind.report.answer import answer_of
from minimind.report.statistics import CONFIDENCE


def as_json(report: Report) -> dict[str, Any]:
    sweep = report.sweep
    return _finite({
        "name": sweep.name, "question": sweep.question, "claim": sweep.claim, "answer": answer_of(report),
        "kind": sweep.kind, "metric": sweep.metric, "margin": report.margin, "budget": sweep.budget,
        "baseline": sweep.baseline, "confidence_of_all": CONFIDENCE, "num_compared": len(report.others),
        "caveats": report.caveats, "command": sweep.command, "arms": [_arm(arm, report) for arm in report.arms],
    })  # fmt: skip


def _arm(arm: Arm, report: Report) -> dict[str, Any]:
    difference = arm.difference and {**asdict(arm.difference), "degrees_of_freedom": arm.difference.degrees_of_freedom}
    return {
        "name": arm.name,
        "overrides": report.sweep.arms[arm.name],
        "differs": report.sweep.differs.get(arm.name, []),
        "figures": {key: asdict(found) for key, found in arm.spreads.items()},
        "difference": difference,
        "verdict": arm.verdict and {"finding": arm.verdict.finding.value, "words": arm.verdict.words},
        "runs": [
            {
                "replicate": run.job.replicate, "run": run.job.run, "state": run.state, "reason": run.reason,
                "figures": dict(run.metrics),
                **{key: run.status.get(key) for key in
                   ("auto", "machine", "versions", "git_commit", "source_hash", "data_fingerprint")},
            }
            for run in arm.runs
        ],
    }  # fmt: skip


def _finite(value: Any) -> Any:
    """Replaces infinities and NaN, which JSON does not have, with None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
