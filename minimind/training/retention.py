"""Which checkpoints have served their time."""

from collections.abc import Iterable


def superseded(
    steps: Iterable[int], *, newest: int, keep: int, keep_every: int | None = None, best: int | None = None
) -> list[int]:
    """Of the checkpoints of `steps`, those to delete after that of step `newest` was saved well.

    Later ones are none of ours: they could not be read when the run was resumed, and their steps come again.
    """
    usable = sorted(step for step in steps if step <= newest)
    return [step for step in usable[:-keep] if step != best and not (keep_every and step % keep_every == 0)]
