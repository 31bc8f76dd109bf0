"""Fixture: plans a sweep as a Hydra multirun does, without a command line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from minimind.config.schema import register
from minimind.sweep.compose import Compose, composer
from minimind.sweep.plan import SweepPlan
from minimind.sweep.run import prepare_sweep
from minimind.utils.paths import conf_dir


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepPlan]:
    """Returns the plan of `train.py -m` with given arguments."""
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    register()
    GlobalHydra.instance().clear()
    search_path = create_automatic_config_search_path(None, None, str(conf_dir()))
    loader = ConfigLoaderImpl(config_search_path=search_path)

    def master_of(arguments: Sequence[str]):
        return loader.load_configuration("train", [*arguments, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN)

    def prepare(*arguments: str) -> SweepPlan:
        master = master_of(arguments)
        compose: Compose = composer(loader, master)
        return prepare_sweep(master, arguments, compose)

    return prepare
