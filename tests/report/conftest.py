"""Fixtures: hand-made sweeps in a temporary root."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Maker

from minimind.objectives.config import ObjectiveConfig, objective_configs


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
    return Maker(tmp_path)


@pytest.fixture
def two_arms(maker: Maker) -> Callable[..., Path]:
    """Makes a sweep of rms and layer over three seeds; layer is worse by about 0.05. `changes` apply to one run."""

    def make(arm: str = "layer", seed: int = 2, sweep: dict[str, Any] | None = None, **changes: Any) -> Path:
        for name, losses in {"rms": (2.0, 2.1, 2.05), "layer": (2.05, 2.151, 2.099)}.items():
            for number, loss in enumerate(losses, start=1):
                own = {"loss": loss, "settings": {"model.norm": name}}
                maker.run(name, number, **(own | changes if (name, number) == (arm, seed) else own))
        return maker.sweep("rms", **(sweep or {}))

    return make


@pytest.fixture
def preference(monkeypatch: pytest.MonkeyPatch) -> str:
    """Installs an objective whose primary metric is its own and higher is better; returns its kind."""

    class Preference(ObjectiveConfig):
        primary = ("val/chosen", "max")

    monkeypatch.setitem(objective_configs(), "preference", Preference)
    return "preference"
