"""Decides whether a run has anything to do, and claims its folder, before torch is imported."""

from contextlib import ExitStack

from minimind.config.plan import Plan, is_finished, named_folder, starts_afresh
from minimind.config.resume import not_applied, refuse_other_settings
from minimind.runs.checkpoints import resume_point
from minimind.runs.folder import RunFolder, step_of
from minimind.runs.links import refuse_links
from minimind.runs.lock import run_lock
from minimind.runs.states import Exit
from minimind.utils.errors import DamagedFile, UserError
from minimind.utils.terminal import say


def admit(planned: Plan, locks: ExitStack) -> int | None:
    """Locks and checks the run folder; the lock is released when `locks` closes.

    Returns:
        An exit code if there is nothing to do, else None.

    Raises:
        UserError: another process is using the folder, or the command does not fit its content. Nothing was changed.
    """
    cfg, _, folder = planned
    if starts_afresh(cfg) and folder.path.exists():
        _begin_beside(folder, locks)
        return None
    folder.check_status()
    if named_folder(cfg.run.resume):
        refuse_other_settings(planned.config, folder.path, folder.status.get("step", 0))
    if is_finished(planned):  # before locking, so that a finished run can be shown from a read-only folder
        return _show_finished(planned)
    locks.enter_context(run_lock(folder.lock))
    if is_finished(planned):  # by another process in the meantime
        return _show_finished(planned)
    refuse_links(folder.path)
    status = folder.status
    if status and cfg.run.resume == "never":
        raise UserError(f"{folder.path} must not exist with run.resume=never; use run.fresh=true or run.tag=….")
    if not status and cfg.run.resume == "must":
        raise UserError(f"{folder.path} must exist with run.resume=must, but does not.")
    if (checkpoint := resume_point(folder, warn=True)) is not None:
        refuse_other_settings(planned.config, checkpoint, step_of(checkpoint))
    if not status and named_folder(cfg.run.resume):  # without one, nothing shows that this is a run folder
        raise UserError(f"{folder.path} must have a status.json to be resumed, but has none.")
    folder.claim()
    return None


def _begin_beside(folder: RunFolder, locks: ExitStack) -> None:
    """Starts in a new folder; the old run keeps its name and lock until all checks have passed (`replace_old`)."""
    final_lock, old_lock = folder.lock, locks.enter_context(ExitStack())
    old_lock.enter_context(run_lock(folder.lock))
    folder.stage_replacement(old_lock.close)
    locks.enter_context(run_lock(folder.lock, final_lock))
    folder.claim()


def _show_finished(planned: Plan) -> int:
    """Raises: UserError, if the command has settings that the finished run did not use."""
    from minimind.report.summary import print_summary
    from minimind.runs.metrics_file import read_rows
    from minimind.runs.source import source_hash
    from minimind.utils.files import read_object

    folder = planned.folder
    if unused := not_applied(planned.config, folder.path):
        raise UserError(
            f"{folder.path} is finished and did not use these settings: {', '.join(unused)}. Leave them out to see its "
            "results. To use them, start again (run.fresh=true), start another run (run.tag=NAME) or train longer "
            f"(run.resume={folder.path} trainer.max_steps=N)."
        )
    say("This run is finished. To repeat it: run.fresh=true; for another run with the same settings: run.tag=NAME.")
    say(f"To train longer: run.resume={folder.path} trainer.max_steps=N schedule.horizon_steps=N")
    say("(without a new horizon, the learning rate stays at its final value).")
    if folder.status.get("source_hash") != source_hash():
        say("The source code has changed since this run.")
    if reason := folder.status.get("reason"):
        say(f"It was stopped early: {reason}.")
    summary, rows = read_object(folder.summary), read_rows(folder.samples)
    try:
        samples = [sample for sample in rows if sample.get("step", summary["step"]) == summary["step"]]
        print_summary(summary, samples, folder.path)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise DamagedFile(f"{folder.summary} or {folder.samples.name} is not as the run wrote it.") from None
    return Exit.FINISHED
