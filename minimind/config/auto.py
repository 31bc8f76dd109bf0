"""Resolves device settings that are `auto` or null on this machine; torch is imported only for that.

A sweep resolves them once, in a separate process that runs this module, and passes the result to its jobs in an
environment variable, so that the jobs cannot differ. A job started by another launcher, perhaps on another machine,
resolves its own.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from minimind.training.config import TrainerConfig
from minimind.utils.errors import ConfigError

INHERITED = "MINIMIND_AUTO"  # environment variable of a job: request and resolved settings, as JSON


class DeviceRequest(NamedTuple):
    """The settings that resolution depends on, in addition to the machine and the cores available to the process."""

    accelerator: str
    precision: str
    num_threads: int | None
    devices: int


def device_request(cfg: TrainerConfig) -> DeviceRequest:
    return DeviceRequest(cfg.accelerator, cfg.precision, cfg.num_threads, cfg.devices)


def resolve_device(request: DeviceRequest) -> dict[str, Any]:
    """Accelerator, precision, and number of CPU threads per process.

    Raises:
        ConfigError: the device does not exist or does not support the precision.
    """
    import torch

    from minimind.utils.hardware import pick_device, pick_precision

    device = pick_device(request.accelerator)
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(device.type):
        raise ConfigError([
            f"`trainer.accelerator` must be available on this machine, but {device.type} is not; use cpu or auto."
        ])  # fmt: skip
    if device.type == "cpu" and request.precision == "16-mixed":
        raise ConfigError(["`trainer.precision` must not be 16-mixed on a CPU (torch computes bf16); use bf16-mixed."])
    return {
        "accelerator": device.type,
        "precision": pick_precision(request.precision, device),
        "num_threads": request.num_threads or max(1, torch.get_num_threads() // request.devices),
    }


def inheritance(request: DeviceRequest, settings: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that pass resolved settings to a job."""
    return {INHERITED: json.dumps([request, settings])}


def inherited_settings(request: DeviceRequest) -> dict[str, Any]:
    """Settings that the sweep resolved for this job; empty if there are none for this request."""
    try:
        inherited_request, settings = json.loads(os.environ.get(INHERITED, "[null, {}]"))
    except (ValueError, TypeError):
        return {}
    return settings if inherited_request == list(request) else {}  # may be left in the environment by another job


def main() -> None:
    """Read a list of requests from stdin and write a list of settings to stdout, empty for impossible requests.

    A job with an impossible request reports the error itself.
    """
    resolved = []
    for request in json.load(sys.stdin):
        try:
            resolved.append(resolve_device(DeviceRequest(*request)))
        except ConfigError:
            resolved.append({})
    json.dump(resolved, sys.stdout)


if __name__ == "__main__":
    main()
