"""What is measured and shown when training ends."""

from dataclasses import dataclass, field


@dataclass
class EvaluationConfig:
    prompts: list[str] = field(default_factory=list)  # continued at the end of training
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
