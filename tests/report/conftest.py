"""Hand-made sweeps, below a root of their own."""

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
    """A sweep of rms and layer over three seeds, of which layer is worse by about 0.05; changes to one of the runs."""

    def make(arm: str = "layer", seed: int = 2, sweep: dict[str, Any] | None = None, **changes: Any) -> Path:
        for name, losses in {"rms": (2.0, 2.1, 2.05), "layer": (2.05, 2.151, 2.099)}.items():
            for number, loss in enumerate(losses, start=1):
                of_arm = {"settings": {"model.norm": name}}
                changed = {**of_arm, **changes} if (name, number) == (arm, seed) else of_arm
                maker.run(name, number, **{"loss": loss, **changed})
        return maker.sweep("rms", **(sweep or {}))

    return make


@pytest.fixture
def preference(monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed kind of objective that is judged by a metric of its own, of which more is better."""

    class Preference(ObjectiveConfig):
        primary = ("val/chosen", "max")

    monkeypatch.setitem(objective_configs(), "preference", Preference)
    return "preference"
