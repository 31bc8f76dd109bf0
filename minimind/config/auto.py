"""What `auto` and null mean on this machine; torch is imported only to find out.

The parent of a sweep lets a process of its own find out (this module, run) and hands the answers down to its jobs, so
that they cannot differ by it. A job that another launcher starts, perhaps on another machine, finds out for itself.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from minimind.training.config import TrainerConfig
from minimind.utils.errors import ConfigError

HANDED_DOWN = "MINIMIND_AUTO"  # in a job's environment: the answers, as JSON


class Asked(NamedTuple):
    """All that the answers depend on, besides the machine and the cores a process may use."""

    accelerator: str
    precision: str
    num_threads: int | None
    devices: int


def asked_by(cfg: TrainerConfig) -> Asked:
    return Asked(cfg.accelerator, cfg.precision, cfg.num_threads, cfg.devices)


def of_this_machine(asked: Asked) -> dict[str, Any]:
    """Accelerator, precision and threads of each process.

    Raises:
        ConfigError: the device cannot do what is asked.
    """
    import torch

    from minimind.utils.hardware import pick_device, pick_precision

    device = pick_device(asked.accelerator)
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(device.type):
        raise ConfigError([
            f"`trainer.accelerator` must name a device that is here, but {device.type} is not; use cpu or auto."
        ])  # fmt: skip
    if device.type == "cpu" and asked.precision == "16-mixed":
        raise ConfigError(["`trainer.precision` must not be 16-mixed on a CPU (torch computes bf16); use bf16-mixed."])
    return {
        "accelerator": device.type,
        "precision": pick_precision(asked.precision, device),
        "num_threads": asked.num_threads or max(1, torch.get_num_threads() // asked.devices),
    }


def hand_down(asked: Asked, answers: Mapping[str, Any]) -> dict[str, str]:
    """For the environment of a job."""
    return {HANDED_DOWN: json.dumps([asked, answers])}


def handed_down(asked: Asked) -> dict[str, Any]:
    """The answers that the parent of a sweep found for this job; none: it is to find out for itself."""
    try:
        of, answers = json.loads(os.environ.get(HANDED_DOWN, "[null, {}]"))
    except (ValueError, TypeError):
        return {}
    return answers if of == list(asked) else {}  # else left in the environment by another job


def main() -> None:
    """A list of what is asked → a list of answers; a job that asks for what cannot be will say so itself."""
    answers = []
    for asked in json.load(sys.stdin):
        try:
            answers.append(of_this_machine(Asked(*asked)))
        except ConfigError:
            answers.append({})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
