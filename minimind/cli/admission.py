"""Whether there is anything to do for a run: before torch is imported, and before anything is written."""

import sys

from minimind.cli.app import FINISHED
from minimind.config.plan import Plan, is_finished, starts_afresh
from minimind.runs.folder import RunFolder
from minimind.utils.errors import UserError
from minimind.utils.terminal import say


def admit(planned: Plan) -> int | None:
    """Sees to `run.fresh` and `run.resume`; an exit code if there is nothing to do."""
    cfg, _, folder = planned
    if starts_afresh(cfg) and folder.path.exists():
        say(f"run.fresh: the old folder is now {folder.move_aside().name}.", file=sys.stderr)
    status = folder.status
    if status and cfg.run.resume == "never":
        raise UserError(f"{folder.path} must not exist with run.resume=never; use run.fresh=true or run.tag=….")
    if not status and cfg.run.resume == "must":
        raise UserError(f"{folder.path} must exist with run.resume=must, but does not.")
    return _show_finished(folder) if is_finished(planned) else None


def _show_finished(folder: RunFolder) -> int:
    from minimind.report.summary import print_summary
    from minimind.runs.metrics_file import read_rows
    from minimind.runs.source import source_hash
    from minimind.utils.files import read_json

    say("This run is finished. run.fresh=true does it again, run.tag=NAME makes another of the same settings,")
    say(f"run.resume={folder.path} trainer.max_steps=N schedule.horizon_steps=N goes on longer")
    say("(the learning rate has ended where the schedule did, unless its horizon moves too).")
    if folder.status.get("source_hash") != source_hash():
        say("The source code has changed since.")
    if reason := folder.status.get("reason"):
        say(f"It was stopped early: {reason}.")
    summary = read_json(folder.summary)
    samples = [sample for sample in read_rows(folder.samples) if sample.get("step", summary["step"]) == summary["step"]]
    print_summary(summary, samples, folder.path)
    return FINISHED
