"""Settings of the W&B logger, and the rules for `logger.watch`."""

from dataclasses import dataclass, field

WATCHED = ("gradients", "weights", "moe_load", "all")


@dataclass
class WandbSettings:
    project: str = "minimind"
    entity: str | None = None
    group: str | None = None  # None: the experiment or the sweep
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    finish_timeout_s: float = 30.0  # how long the end of a run waits for W&B


def problems(watch: str | None, num_experts: int) -> list[str]:
    if watch is not None and watch not in WATCHED:
        return [f"`logger.watch` must be one of {', '.join(WATCHED)} or null, but is {watch}."]
    if watch == "moe_load" and not num_experts:
        return ["`logger.watch` must not be moe_load for a model without experts; use gradients, weights or all."]
    return []
