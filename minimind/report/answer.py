"""One sentence for a reader in a hurry, made of the verdicts."""

from minimind.report.analysis import Arm, Report
from minimind.report.figures import Better, several
from minimind.report.number_arms import numbers_of
from minimind.report.verdict import Finding


def answer_of(report: Report) -> str:
    finished = sum(run.finished for run in report.runs)
    if not finished:
        return f"Nothing can be said yet: none of {len(report.runs)} runs is finished."
    opening = "" if finished == len(report.runs) else f"So far ({finished} of {len(report.runs)} runs are finished): "
    label, baseline = report.metric.label, report.baseline
    if not report.num_compared:
        return f"{opening}{_alone(baseline, report)}"
    if not baseline.counted(report.sweep.metric):
        nothing = "nothing" if opening else "Nothing"
        return f"{opening}{nothing} can be compared: the baseline `{baseline.name}` has no run with a {label}."
    parts = [part for arm in report.arms[1:] if (part := _shown(arm))]
    parts += _together(report.arms[1:], Finding.not_shown, "no difference is shown for {}")
    parts += _together(report.arms[1:], Finding.undecided, "no verdict on {}" + f" (too few {report.unit}s)")
    if without := [arm.name for arm in report.arms[1:] if arm.verdict is None]:
        parts.append(f"nothing to compare of {_listed(without)}")
    on = "on" if opening else "On"
    return f"{opening}{on} {label}, compared with `{baseline.name}`: {'; '.join(parts)}.{_best(report)}"


def _shown(arm: Arm) -> str | None:
    if arm.verdict is None or arm.verdict.finding in (Finding.not_shown, Finding.undecided):
        return None
    return f"`{arm.name}` is {arm.verdict.words}"


def _together(arms: list[Arm], finding: Finding, sentence: str) -> list[str]:
    names = [arm.name for arm in arms if arm.verdict is not None and arm.verdict.finding is finding]
    return [sentence.format(_listed(names))] if names else []


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _alone(arm: Arm, report: Report) -> str:
    found = arm.spreads.get(report.sweep.metric)
    if found is None:
        return f"`{arm.name}` has no run with a {report.metric.label}."
    figures = f"{report.metric.show(found.mean)} ± {report.metric.show(found.sd)}"
    runs = several(found.count, report.unit)
    return f"`{arm.name}` has a {report.metric.label} of {figures} over {runs}; there is no other arm."


def _best(report: Report) -> str:
    """Of a quantity that was varied, where the metric is best: a reading, without a test of its own."""
    means = {arm.name: found.mean for arm in report.arms if (found := arm.spreads.get(report.sweep.metric))}
    if report.metric.better is None or numbers_of([*means]) is None:
        return ""
    choose = min if report.metric.better is Better.lower else max
    best = choose(means, key=means.__getitem__)
    return f" The best mean is that of `{best}`: {report.metric.show(means[best])}."
