"""Composes and checks the settings of one job from its overrides."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from minimind.config.plan import Plan, complete, plan
from minimind.utils.errors import ConfigError


class Composed(NamedTuple):
    plan: Plan
    frozen: str  # resolved YAML of the settings, for `train.py --frozen`


Compose = Callable[[Sequence[str]], Composed]


def composer(loader: ConfigLoader, master: DictConfig) -> Compose:
    """Returns a function that composes a job as a Hydra multirun does and checks it; it raises ConfigError."""

    def compose(overrides: Sequence[str]) -> Composed:
        try:
            cfg = loader.load_sweep_config(master, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([" ".join(str(error).split("\n")[:2])]) from None
        hydra_node = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        complete(cfg, hydra_node)
        if cfg.run.resume not in ("auto", "must", "never"):
            raise ConfigError(["`run.resume` must be auto, must or never in a sweep, as each run has its own folder."])
        return Composed(plan(cfg), OmegaConf.to_yaml(cfg, resolve=True))

    return compose
