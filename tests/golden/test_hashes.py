"""Golden hashes: no setting that is added later may rename a run that does not use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hashes import configurations, container_of, hydra, recorded
from hydra import compose

from minimind.config.checks import to_config
from minimind.config.plan import plain
from minimind.runs.identity import is_hashed, leaves, run_hash

RECORDED = recorded()


@pytest.fixture(scope="module", autouse=True)
def _composing() -> Iterator[None]:
    with hydra():
        yield


@pytest.mark.parametrize("overrides", list(RECORDED), ids=" ".join)
def test_a_configuration_is_valid_and_the_run_that_it_was(overrides: tuple[str, ...]) -> None:
    """Both in one test, as composing is what takes the time."""
    composed = compose("train", overrides=[*overrides, "paths.root=/nowhere"])
    container = plain(composed)
    assert run_hash(container) == RECORDED[overrides]
    hashed = [value for leaf, value in leaves(container).items() if is_hashed(leaf)]
    assert not [value for value in hashed if isinstance(value, str) and Path(value).is_absolute()]  # of no machine
    if overrides == ("callbacks=moe_load",):  # of which there are no experts to load
        composed.model.num_experts = 2
    to_config(composed)


def test_every_option_has_its_golden_hash() -> None:
    missing = [overrides for overrides in configurations() if overrides not in RECORDED]
    assert not missing, "python tests/golden/hashes.py adds the hashes of new options"


def test_places_are_no_part_of_the_identity() -> None:
    assert run_hash(container_of((), root="/another/place")) == RECORDED[()]
