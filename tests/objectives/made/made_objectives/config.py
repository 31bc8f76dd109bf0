"""Settings of the objectives."""

from dataclasses import dataclass
from typing import ClassVar

from minimind.objectives.config import ObjectiveConfig


@dataclass
class PairwiseConfig(ObjectiveConfig):
    kind: str = "pairwise"
    reference: str = "???"  # a run whose model is the frozen reference
    margin: float = 1.0

    implementation: ClassVar[str] = "made_objectives.pairwise:Pairwise"
    primary: ClassVar[tuple[str, str]] = ("val/accuracy", "max")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "pairs/of_rank_1")

    def frozen(self) -> dict[str, str]:
        return {"reference": self.reference}


@dataclass
class WritingConfig(ObjectiveConfig):
    kind: str = "writing"
    new_tokens: int = 6

    implementation: ClassVar[str] = "made_objectives.writing:Writing"
    primary: ClassVar[tuple[str, str]] = ("val/reward", "max")
    metrics: ClassVar[tuple[str, ...]] = ("reward",)


@dataclass
class PickyConfig(ObjectiveConfig):
    kind: str = "picky"

    implementation: ClassVar[str] = "made_objectives.nowhere:Missing"
    accepts: ClassVar[tuple[str, ...]] = ("pairs", "conversations")


@dataclass
class LossConfig(ObjectiveConfig):
    """Invalid: one of its metrics would overwrite the loss's weight."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "weight")


@dataclass
class OtherEndConfig(ObjectiveConfig):
    primary: ClassVar[tuple[str, str]] = ("val/loss", "max")
