"""What was typed → the runs it asks for, each as a list of overrides: an ablation's arms, or a grid."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from minimind.report.config import AblationConfig, Kind
from minimind.utils.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """One run as it is asked for: an arm with a seed, or a repeat of it."""

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
    """One list in which the last word on each key counts."""
    last: dict[str, str] = {}
    for override in itertools.chain.from_iterable(map(parse, lists)):
        last.pop(key_of(override), None)
        assert override.input_line is not None
        last[key_of(override)] = override.input_line
    return tuple(last.values())


def trials_of_ablation(ablation: AblationConfig, arguments: Sequence[str]) -> list[Trial]:
    """Arms × seeds with the user's overrides; of a cost ablation arms × repeats, each round the other way round.

    Raises:
        ConfigError: the command line sets what the arms are there to set.
    """
    typed = parse(arguments)
    _refuse_contradictions(ablation, typed)
    user = [str(override.input_line) for override in typed if key_of(override).split(".")[0] != "ablation"]
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


def _refuse_contradictions(ablation: AblationConfig, typed: list[Override]) -> None:
    found = []
    ignored = "ablation.seeds" if ablation.kind is Kind.cost else "ablation.repeats"
    set_by = {key_of(o): name for name, overrides in ablation.arms.items() for o in parse(overrides)}
    for override in typed:
        key = key_of(override)
        if key == ignored:
            found.append(f"`{key}` must not be typed: an ablation of `kind: {ablation.kind.value}` has none.")
        elif key in set_by:
            found.append(
                f"`{key}` must not be typed beside this ablation: its arm `{set_by[key]}` sets it. Leave it out, or "
                "change the arms (ablation.arms)."
            )
        elif override.is_sweep_override():
            found.append(f"`{key}` must have one value beside an ablation, whose arms are the sweep.")
        elif key == "seed" and ablation.kind is Kind.quality:
            found.append("`seed` must not be typed beside an ablation: type ablation.seeds='[1,2,3]'.")
        elif key == "run.tag" and ablation.kind is Kind.cost:
            found.append("`run.tag` must not be typed beside a cost ablation, whose repeats it tells apart.")
    if found:
        raise ConfigError(found)


def trials_of_grid(arguments: Sequence[str], seed: int) -> list[Trial]:
    """Every combination of the values typed; those that differ in the seed alone are one arm.

    Args:
        seed: what the configuration has where none is typed.

    Raises:
        ConfigError: a range of real numbers, of which there is no every.
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
