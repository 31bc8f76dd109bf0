"""Settings of the samples and measurements at the end of training."""

from dataclasses import dataclass, field

from minimind.utils.errors import ConfigError


@dataclass
class EvaluationConfig:
    prompts: list[str] = field(default_factory=list)  # continued at the end of training
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    decode_tokens: int = 0  # decoded greedily to measure the speed; 0: not measured
    context_factors: list[int] = field(default_factory=list)  # window lengths to evaluate, in multiples of training's
    yarn: bool = False  # extend RoPE by YaRN with the same factor

    def __post_init__(self) -> None:
        found = []
        if self.decode_tokens < 0:
            found.append(f"`evaluation.decode_tokens` must be at least 0 (not measured), but is {self.decode_tokens}.")
        if any(factor < 1 for factor in self.context_factors):
            found.append(f"`evaluation.context_factors` must be at least 1, but are {list(self.context_factors)}.")
        if found:
            raise ConfigError(found)
