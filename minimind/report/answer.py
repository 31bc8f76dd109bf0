"""One sentence for a reader in a hurry, made of the verdicts."""

from minimind.report.analysis import Arm, Report
from minimind.report.metrics import Better, several
from minimind.report.number_arms import numbers_of
from minimind.report.verdict import Finding, Verdict

FEW = 4
SHOWN = {Finding.better, Finding.worse, Finding.higher, Finding.lower, Finding.equal}
CLAUSES = {
    Finding.equal: "equal within the margin: {}",
    Finding.not_shown: "no difference shown for {}",
    Finding.undecided: "no verdict on {}",
}


def answer_of(report: Report) -> str:
    finished = sum(run.finished for run in report.runs)
    if not finished:
        return f"Nothing can be said yet: none of {len(report.runs)} runs is finished."
    opening = "" if finished == len(report.runs) else f"With {finished} of {len(report.runs)} runs finished, "
    label, baseline = report.metric.label, report.baseline
    if not report.others:
        return f"{opening}{_alone(baseline, report)}"
    if not baseline.counted(report.sweep.metric):
        nothing = "nothing" if opening else "Nothing"
        return f"{opening}{nothing} can be compared: the baseline `{baseline.name}` has no run with a {label}."
    without = [arm.name for arm in report.others if arm.verdict is None]
    parts = [*_verdicts(report), *([f"nothing to compare of {_listed(without)}"] if without else [])]
    on = "on" if opening else "On"
    return f"{opening}{on} {label}, compared with `{baseline.name}`: {'; '.join(parts)}.{_best(report)}"


def _verdicts(report: Report) -> list[str]:
    """A clause for each arm if they are few, else one for each finding."""
    few = len(report.others) <= FEW
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
    told = verdict.words.removeprefix(verdict.finding.value)  # the metrics
    return CLAUSES[verdict.finding].format(f"`{name}`") + told


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _alone(arm: Arm, report: Report) -> str:
    found = arm.spreads.get(report.sweep.metric)
    if found is None:
        return f"`{arm.name}` has no run with a {report.metric.label}."
    metrics = f"{report.metric.show(found.mean)} ± {report.metric.show(found.sd)}"
    runs = several(found.count, report.unit)
    return f"`{arm.name}` has a {report.metric.label} of {metrics} over {runs}; there is no other arm."


def _best(report: Report) -> str:
    """Of a quantity that was varied, where the metric is best: a reading, without a test of its own."""
    means = {arm.name: found.mean for arm in report.arms if (found := arm.spreads.get(report.sweep.metric))}
    if report.metric.better is None or numbers_of([*means]) is None:
        return ""
    choose = min if report.metric.better is Better.lower else max
    best = choose(means, key=means.__getitem__)
    return f" The best mean is that of `{best}`: {report.metric.show(means[best])}."
