"""Whether runs that are finished already were measured as this sweep asks: their identity does not say so."""

from collections.abc import Sequence

from minimind.config.plan import Plan, plain
from minimind.config.schema import load_stored
from minimind.report.config import Kind
from minimind.runs.identity import leaves
from minimind.utils.errors import ConfigError

MEASURED_WITH = ("evaluation.context_factors", "evaluation.yarn", "evaluation.decode_tokens")
OF_A_COST = ("trainer.num_threads", "trainer.micro_batch", "trainer.accelerator", "trainer.devices",
             "trainer.log_every_steps")  # fmt: skip


def refuse_other_measurements(finished: Sequence[Plan], kind: str) -> None:
    """Raises: ConfigError, naming run and setting."""
    keys = (*MEASURED_WITH, *OF_A_COST) if kind == Kind.cost.value else MEASURED_WITH
    found = []
    for planned in finished:
        asked, stored = leaves(planned.config), leaves(plain(load_stored(planned.folder.config)))
        for key in keys:
            if asked.get(key) != stored.get(key):
                found.append(
                    f"`{key}` must be {stored.get(key)}, with which {planned.folder.path.name} was measured, but is "
                    f"{asked.get(key)}; type run.fresh=true to do such runs again, or run.tag=… for others."
                )
    if found:
        raise ConfigError(found)
