"""Which objective."""

from dataclasses import dataclass


@dataclass
class ObjectiveConfig:
    kind: str = "pretrain"
