"""Expands the command line into runs, each a list of overrides: the arms of an ablation, or a grid."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from minimind.report.config import AblationConfig, Kind
from minimind.utils.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """A run to plan: an arm with one seed, or one repeat of it."""

    arm: str
    replicate: int
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.arm}, {self.replicate}"


def parse(arguments: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(arguments))


def key_of(override: Override) -> str:
    return override.key_or_group


def merged(*lists: Sequence[str]) -> tuple[str, ...]:
    """One list in which the last override of each key wins."""
    last: dict[str, str] = {}
    for override in itertools.chain.from_iterable(map(parse, lists)):
        last.pop(key_of(override), None)
        assert override.input_line is not None
        last[key_of(override)] = override.input_line
    return tuple(last.values())


def trials_of_ablation(ablation: AblationConfig, arguments: Sequence[str]) -> list[Trial]:
    """Arms × seeds with the user's overrides or, for a cost ablation, arms × repeats in alternating order.

    Raises:
        ConfigError: the command line sets something that the ablation controls.
    """
    given = parse(arguments)
    _refuse_conflicts(ablation, given)
    user = [str(override.input_line) for override in given if key_of(override).split(".")[0] != "ablation"]
    trials = []
    if ablation.kind is Kind.quality:
        for seed, (arm, own) in itertools.product(ablation.seeds, ablation.arms.items()):
            trials.append(Trial(arm, seed, merged(ablation.common, user, own, [f"seed={seed}"])))
        return trials
    for repeat in range(1, ablation.repeats + 1):
        arms = list(ablation.arms.items())
        for arm, own in arms if repeat % 2 else reversed(arms):
            trials.append(Trial(arm, repeat, merged(ablation.common, user, own, [f"run.tag={arm}-{repeat}"])))
    return trials


def _refuse_conflicts(ablation: AblationConfig, given: list[Override]) -> None:
    found = []
    ignored = "ablation.seeds" if ablation.kind is Kind.cost else "ablation.repeats"
    set_by = {key_of(o): name for name, overrides in ablation.arms.items() for o in parse(overrides)}
    for override in given:
        key = key_of(override)
        if key == ignored:
            found.append(f"`{key}` must not be set: an ablation of `kind: {ablation.kind.value}` does not use it.")
        elif key in set_by:
            found.append(
                f"`{key}` must not be set with this ablation: its arm `{set_by[key]}` sets it. Leave it out, or "
                "change the arms (ablation.arms)."
            )
        elif override.is_sweep_override():
            found.append(f"`{key}` must have a single value with an ablation, which sweeps over its arms only.")
        elif key == "seed" and ablation.kind is Kind.quality:
            found.append("`seed` must not be set with an ablation: use ablation.seeds='[1,2,3]'.")
        elif key == "run.tag" and ablation.kind is Kind.cost:
            found.append("`run.tag` must not be set with a cost ablation, which uses it to distinguish repeats.")
    if found:
        raise ConfigError(found)


def trials_of_grid(arguments: Sequence[str], seed: int) -> list[Trial]:
    """Every combination of the given values; those that differ only in the seed form one arm.

    Args:
        seed: the configured seed, used unless one is given.

    Raises:
        ConfigError: a continuous interval is given, which has no finite set of values.
    """
    axes: list[list[tuple[str, str]]] = []
    for override in parse(arguments):
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError([f"`{key}` must be a list of values (a,b,c), a choice or a range, but is an interval."])
        values = (
            override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        )
        axes.append([(key, str(value)) for value in values])
    swept = {axis[0][0] for axis in axes if len(axis) > 1}
    trials = []
    for combination in itertools.product(*axes):
        chosen = dict(combination)
        arm = [f"{key}={value}" for key, value in combination if key in swept and key != "seed"]
        overrides = tuple(f"{key}={value}" for key, value in combination)
        trials.append(Trial(" ".join(arm) or "all", int(chosen.get("seed", seed)), overrides))
    return trials
