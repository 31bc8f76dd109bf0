"""How many steps an arm takes, so that it has as many tokens or FLOPs as the baseline."""

from minimind.config.schema import TrainConfig
from minimind.report.config import Budget
from minimind.utils.errors import ConfigError


def max_steps(budget: Budget, baseline: TrainConfig, arm: TrainConfig) -> int:
    """Raises: ConfigError, if the baseline's length is not known before its data are."""
    if baseline.trainer.max_steps is None:
        raise ConfigError([
            "`trainer.max_steps` must say how long the baseline trains, but is null (trainer.epochs does)."
        ])  # fmt: skip
    return max(1, round(baseline.trainer.max_steps * _of_a_step(budget, baseline) / _of_a_step(budget, arm)))


def _of_a_step(budget: Budget, cfg: TrainConfig) -> float:
    if budget is Budget.steps:
        return 1
    tokens = cfg.trainer.batch_tokens
    return tokens if budget is Budget.tokens else tokens * cfg.model.flops_per_token(cfg.data.sequence_length)
