"""The verdicts of a report, summed up in one sentence."""

from minimind.report.analysis import Arm, Report, arm_values
from minimind.report.metrics import Better, plural
from minimind.report.verdict import Finding, Verdict

MAX_DETAILED = 4  # arms; with more, only the findings are listed
SHOWN = {Finding.better, Finding.worse, Finding.higher, Finding.lower, Finding.equal}
CLAUSES = {
    Finding.equal: "equal within the margin: {}",
    Finding.not_shown: "no difference shown for {}",
    Finding.undecided: "no verdict on {}",
}


def answer_of(report: Report) -> str:
    finished = sum(run.finished for run in report.runs)
    if not finished:
        return f"No answer yet: none of {len(report.runs)} runs has finished."
    opening = "" if finished == len(report.runs) else f"With {finished} of {len(report.runs)} runs finished, "
    label, baseline = report.metric.label, report.baseline
    if not report.others:
        return f"{opening}{_single_arm(baseline, report)}"
    if not baseline.by_replicate(report.sweep.metric):
        nothing = "nothing" if opening else "Nothing"
        return f"{opening}{nothing} can be compared: the baseline `{baseline.name}` has no run with a {label}."
    unpaired = [arm.name for arm in report.others if arm.verdict is None]
    parts = [*_verdicts(report), *([f"nothing to compare for {_listed(unpaired)}"] if unpaired else [])]
    on = "on" if opening else "On"
    return f"{opening}{on} {label}, compared with `{baseline.name}`: {'; '.join(parts)}.{_best(report)}"


def _verdicts(report: Report) -> list[str]:
    """One clause per arm if there are few, else one per finding."""
    few = len(report.others) <= MAX_DETAILED
    parts = []
    for finding in Finding:
        arms = [arm for arm in report.others if arm.verdict and arm.verdict.finding is finding]
        if few:
            parts += [_clause(arm.name, arm.verdict) for arm in arms if arm.verdict]
        elif arms:
            clause = CLAUSES.get(finding, f"{finding.value}: {{}}")
            parts.append(clause.format(_listed([arm.name for arm in arms])))
    return parts


def _clause(name: str, verdict: Verdict) -> str:
    if verdict.finding in SHOWN:
        return f"`{name}` is {verdict.words}"
    details = verdict.words.removeprefix(verdict.finding.value)
    return CLAUSES[verdict.finding].format(f"`{name}`") + details


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _single_arm(arm: Arm, report: Report) -> str:
    found = arm.spreads.get(report.sweep.metric)
    if found is None:
        return f"`{arm.name}` has no run with a {report.metric.label}."
    value = f"{report.metric.show(found.mean)} ± {report.metric.show(found.sd)}"
    runs = plural(found.count, report.unit)
    return f"`{arm.name}` has a {report.metric.label} of {value} over {runs}; there is no other arm."


def _best(report: Report) -> str:
    """Where the metric is best, if the arms are values of one setting. Descriptive only: nothing is tested."""
    means = {arm.name: found.mean for arm in report.arms if (found := arm.spreads.get(report.sweep.metric))}
    if report.metric.better is None or arm_values([*means]) is None:
        return ""
    choose = min if report.metric.better is Better.lower else max
    best = choose(means, key=means.__getitem__)
    return f" `{best}` has the best mean: {report.metric.show(means[best])}."
