"""Whether runs may be compared: refuses differences in what must be held constant, and warns of others."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from minimind.report.metrics import plural
from minimind.report.run_record import RunRecord
from minimind.report.sweep_file import Sweep
from minimind.utils.errors import UserError

FINGERPRINT, PRECISION, ACCELERATOR = "data fingerprint", "resolved precision", "accelerator"
PER_RUN = {"seed", "run.tag", "init_from"}  # may differ between the replicates of an arm
SAME_BATCHES = {"data.document_mask"}  # the only data setting that leaves the batches as they are
SAME_TEXT = {"data.document_mask", "data.sequence_length", "data.packing"}
BUDGETS = {"steps": "step", "tokens": "tokens", "flops": "flops"}
BUDGET_TOLERANCE = 0.01  # a whole number of steps cannot match every budget exactly


def held_constant(run: RunRecord) -> dict[str, Any]:
    """Everything that compared runs must have in common."""
    auto = run.status.get("auto", {})
    return {
        **run.settings,
        FINGERPRINT: run.status.get("data_fingerprint"),
        PRECISION: auto.get("precision"),
        ACCELERATOR: auto.get("accelerator"),
    }


def refuse_unequal(sweep: Sweep, runs: list[RunRecord]) -> None:
    """Compares the settings of each run with the first run of its arm and with the baseline's run of its replicate.

    Raises:
        UserError: they differ in more than the arm changes; names arm, run and keys.
    """
    started = [run for run in runs if run.settings]
    baseline = {run.job.replicate: run for run in started if run.job.arm == sweep.baseline}
    first: dict[str, RunRecord] = {}
    found = []
    for run in started:
        arm = run.job.arm
        found += _differences(run, first.setdefault(arm, run), PER_RUN)
        if arm != sweep.baseline and run.job.replicate in baseline:
            found += _differences(run, baseline[run.job.replicate], may_differ(sweep.differs.get(arm, [])))
    if found:
        head = "Compared runs must be equal in everything that the arms do not change, but"
        remedy = "Rerun the sweep (a changed run: with run.fresh=true), or compare these runs as separate arms."
        raise UserError("\n  - ".join([head, *found]) + f"\n{remedy}")


def may_differ(keys: Iterable[str]) -> set[str]:
    """The settings that an arm changes, and what follows from them."""
    allowed = {*keys, "run.tag"}
    if any(key.startswith(("data.", "tokenizer.")) for key in allowed):
        allowed.add(FINGERPRINT)
    if "trainer.precision" in allowed:
        allowed.add(PRECISION)
    return allowed


def _differences(run: RunRecord, other: RunRecord, allowed: set[str]) -> list[str]:
    mine, its = held_constant(run), held_constant(other)
    keys = sorted(key for key in mine.keys() | its.keys() if key not in allowed and mine.get(key) != its.get(key))
    if not keys:
        return []
    values = ", ".join(f"{key} ({mine.get(key)}, not {its.get(key)})" for key in keys)
    return [f"`{run.job.arm}` {run.path.name} differs from `{other.job.arm}` {other.path.name} in {values}."]


def caveats(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    """Differences that do not prevent a comparison but may bias it."""
    started = [run for run in runs if run.settings]
    found = [_runs_differ(what, values) for what, values in _circumstances(started) if len(set(values)) > 1]
    found += [*_unequal_budget(sweep, runs), *_broken_rounds(sweep, runs)]
    for arm, keys in sweep.differs.items():
        if other := [key for key in keys if changes_batches(key)]:
            found.append(f"`{arm}` sees different batches than the baseline ({', '.join(other)}): paired by seed only.")
        if any(key.startswith("tokenizer.") for key in keys) and sweep.metric.endswith(("loss", "perplexity")):
            found.append(
                f"`{arm}` has a different tokenizer: {sweep.metric} is per token and not comparable; use "
                "val/bits_per_byte."
            )
        elif other := [key for key in keys if key.startswith("data.") and key not in SAME_TEXT]:
            found.append(f"`{arm}` has different text ({', '.join(other)}); its held-out text may differ, too.")
    return found


def changes_batches(key: str) -> bool:
    is_data = key.startswith(("data.", "tokenizer.")) and key not in SAME_BATCHES
    return is_data or key == "trainer.batch_tokens"


def _circumstances(runs: list[RunRecord]) -> list[tuple[str, list[str]]]:
    """(name, its value in each run) for code, libraries and hardware."""

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


def _runs_differ(what: str, values: list[str]) -> str:
    counts = "; ".join(f"{value}: {plural(count, 'run')}" for value, count in Counter(values).most_common())
    return f"Not held constant: {what} ({counts})."


def _unequal_budget(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    key = BUDGETS.get(sweep.budget or "", "")
    values = sorted((run.metrics[key], run.job.arm) for run in runs if key in run.metrics)
    if not values or values[-1][0] <= (1 + BUDGET_TOLERANCE) * values[0][0]:
        return []
    (least, smallest), (most, largest) = values[0], values[-1]
    return [f"Not held constant: budget (`{largest}`: {most:.4g} {sweep.budget}; `{smallest}`: {least:.4g})."]


def _broken_rounds(sweep: Sweep, runs: list[RunRecord]) -> list[str]:
    """A caveat if repeats did not end round by round, for example because some were rerun later."""
    ended = sorted(
        (run.status["updated"], run.job.replicate) for run in runs if run.finished and "updated" in run.status
    )
    rounds = [replicate for _, replicate in ended]
    if sweep.kind != "cost" or rounds == sorted(rounds):
        return []
    return ["Some repeats were rerun after their round, so not every pair was measured at about the same time."]
