"""Whether runs may be compared: what was to be held equal and is not, and what a reader must know besides."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from minimind.report.metrics import several
from minimind.report.run_record import RunRecord
from minimind.report.sweep_file import Sweep
from minimind.utils.errors import UserError

FINGERPRINT, PRECISION, ACCELERATOR = "data fingerprint", "resolved precision", "accelerator"
OF_EACH_RUN = {"seed", "run.tag", "init_from"}  # may differ between the replicates of an arm
SAME_BATCHES = {"data.document_mask"}  # alone of the data's settings: it changes no batch
SAME_TEXT = {"data.document_mask", "data.sequence_length", "data.packing"}
BUDGETS = {"steps": "step", "tokens": "tokens", "flops": "flops"}
BUDGET_TOLERANCE = 0.01  # whole steps cannot give every number


def held_equal(run: RunRecord) -> dict[str, Any]:
    """What two runs of one comparison must have in common."""
    auto = run.status.get("auto", {})
    return {
        **run.settings,
        FINGERPRINT: run.status.get("data_fingerprint"),
        PRECISION: auto.get("precision"),
        ACCELERATOR: auto.get("accelerator"),
    }


def refuse_unequal(sweep: Sweep, runs: list[RunRecord]) -> None:
    """Holds each run against the first of its arm, and against the baseline's of the same replicate.

    Raises:
        UserError: naming arm, run and keys.
    """
    started = [run for run in runs if run.settings]
    baseline = {run.job.replicate: run for run in started if run.job.arm == sweep.baseline}
    first: dict[str, RunRecord] = {}
    found = []
    for run in started:
        arm = run.job.arm
        found += _differences(run, first.setdefault(arm, run), OF_EACH_RUN)
        if arm != sweep.baseline and run.job.replicate in baseline:
            found += _differences(run, baseline[run.job.replicate], may_differ(sweep.differs.get(arm, [])))
    if found:
        head = "Runs that are compared must be equal in all that the arms do not change, but"
        remedy = "Run the sweep again (a changed run: with run.fresh=true), or compare these runs as arms of their own."
        raise UserError("\n  - ".join([head, *found]) + f"\n{remedy}")


def may_differ(keys: Iterable[str]) -> set[str]:
    """With the settings of an arm, what follows from them."""
    allowed = {*keys, "run.tag"}
    if any(key.startswith(("data.", "tokenizer.")) for key in allowed):
        allowed.add(FINGERPRINT)
    if "trainer.precision" in allowed:
        allowed.add(PRECISION)
    return allowed


def _differences(run: RunRecord, other: RunRecord, allowed: set[str]) -> list[str]:
    mine, its = held_equal(run), held_equal(other)
    keys = sorted(key for key in mine.keys() | its.keys() if key not in allowed and mine.get(key) != its.get(key))
    if not keys:
        return []
    values = ", ".join(f"{key} ({mine.get(key)}, not {its.get(key)})" for key in keys)
    return [f"`{run.job.arm}` {run.path.name} differs from `{other.job.arm}` {other.path.name} in {values}."]


def caveats(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    """What was not held equal without being refused, and what the metric cannot bear."""
    started = [run for run in runs if run.settings]
    found = [_not_held_equal(what, values) for what, values in _circumstances(started) if len(set(values)) > 1]
    found += [*_unequal_budget(sweep, runs), *_broken_rounds(sweep, runs)]
    for arm, keys in sweep.differs.items():
        if other := [key for key in keys if sees_other_batches(key)]:
            found.append(f"`{arm}` sees other batches than the baseline ({', '.join(other)}): paired by seed only.")
        if any(key.startswith("tokenizer.") for key in keys) and sweep.metric.endswith(("loss", "perplexity")):
            found.append(
                f"`{arm}` has another tokenizer: {sweep.metric} counts per token and is not comparable; "
                "val/bits_per_byte is."
            )
        elif other := [key for key in keys if key.startswith("data.") and key not in SAME_TEXT]:
            found.append(f"`{arm}` has other text ({', '.join(other)}), the held-out part may differ too.")
    return found


def sees_other_batches(key: str) -> bool:
    of_the_data = key.startswith(("data.", "tokenizer.")) and key not in SAME_BATCHES
    return of_the_data or key == "trainer.batch_tokens"


def _circumstances(runs: list[RunRecord]) -> list[tuple[str, list[str]]]:
    """Name → its value in each run."""

    def each(mappings: list[Mapping[str, Any]], names: dict[str, str]) -> list[tuple[str, list[str]]]:
        return [(label, [str(mapping.get(name)) for mapping in mappings]) for name, label in names.items()]

    versions = [run.status.get("versions", {}) for run in runs]
    libraries = sorted({name for mapping in versions for name in mapping})
    return [
        *each([run.status for run in runs], {"source_hash": "source code"}),
        *each(versions, {name: name for name in libraries}),
        *each([run.status.get("machine", {}) for run in runs], {"host": "host", "device": "hardware"}),
        *each(
            [run.status.get("auto", {}) for run in runs],
            {"num_threads": "threads", "world_size": "processes", "micro_batch": "micro-batch"},
        ),
    ]


def _not_held_equal(what: str, values: list[str]) -> str:
    shares = "; ".join(f"{value}: {several(count, 'run')}" for value, count in Counter(values).most_common())
    return f"not held equal: {what} ({shares})."


def _unequal_budget(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    key = BUDGETS.get(sweep.budget or "", "")
    values = sorted((run.metrics[key], run.job.arm) for run in runs if key in run.metrics)
    if not values or values[-1][0] <= (1 + BUDGET_TOLERANCE) * values[0][0]:
        return []
    (least, scant), (most, ample) = values[0], values[-1]
    return [f"not held equal: the budget. `{ample}` had {most:.4g} {sweep.budget}, `{scant}` {least:.4g}."]


def _broken_rounds(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    """Repeats that did not end round by round: those of a second start, for one."""
    ended = sorted(
        (run.status["updated"], run.job.replicate) for run in runs if run.finished and "updated" in run.status
    )
    rounds = [replicate for _, replicate in ended]
    if sweep.kind != "cost" or rounds == sorted(rounds):
        return []
    return ["some repeats were done again later than their round: such pairs do not share a moment of the machine."]
