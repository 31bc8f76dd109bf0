"""Whether there is anything to do for a run, and taking hold of its folder: before torch is imported."""

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


def admit(planned: Plan, held: ExitStack) -> int | None:
    """Takes the run's lock, for as long as `held` is open, and only then looks at what there is and moves it.

    Returns:
        An exit code if there is nothing to do.

    Raises:
        UserError: another process works there, or what is asked does not fit what is there; nothing was changed.
    """
    cfg, _, folder = planned
    if starts_afresh(cfg) and folder.path.exists():
        _begin_beside(folder, held)
        return None
    folder.check_status()
    if named_folder(cfg.run.resume):
        refuse_other_settings(planned.config, folder.path, folder.status.get("step", 0))
    if is_finished(planned):  # needs no lock, so that a folder can be read where nothing can be written
        return _show_finished(planned)
    held.enter_context(run_lock(folder.lock))
    if is_finished(planned):  # by another process, meanwhile
        return _show_finished(planned)
    refuse_links(folder.path)
    status = folder.status
    if status and cfg.run.resume == "never":
        raise UserError(f"{folder.path} must not exist with run.resume=never; use run.fresh=true or run.tag=….")
    if not status and cfg.run.resume == "must":
        raise UserError(f"{folder.path} must exist with run.resume=must, but does not.")
    if (checkpoint := resume_point(folder, warn=True)) is not None:
        refuse_other_settings(planned.config, checkpoint, step_of(checkpoint))
    if not status and named_folder(cfg.run.resume):  # its text could be any file of ours: nothing says what it was
        raise UserError(f"{folder.path} must have a status.json to go on with it, but has none.")
    folder.claim()
    return None


def _begin_beside(folder: RunFolder, held: ExitStack) -> None:
    """The old run stays where it is, and locked, until all that may be refused has been looked at: `replace_old`."""
    later, of_the_old = folder.lock, held.enter_context(ExitStack())
    of_the_old.enter_context(run_lock(folder.lock))
    folder.stage_replacement(of_the_old.close)
    held.enter_context(run_lock(folder.lock, later))
    folder.claim()


def _show_finished(planned: Plan) -> int:
    """Raises: UserError, if something was typed that cannot be had of it any more."""
    from minimind.report.summary import print_summary
    from minimind.runs.metrics_file import read_rows
    from minimind.runs.source import source_hash
    from minimind.utils.files import read_object

    folder = planned.folder
    if ignored := not_applied(planned.config, folder.path):
        raise UserError(
            f"{folder.path} is finished, and was done with other settings than were typed: {', '.join(ignored)}. "
            "Leave them out to see its figures; or let it be done with them: again (run.fresh=true), as another run "
            f"(run.tag=NAME), or from now on (run.resume={folder.path} trainer.max_steps=N)."
        )
    say("This run is finished. run.fresh=true does it again, run.tag=NAME makes another of the same settings,")
    say(f"run.resume={folder.path} trainer.max_steps=N schedule.horizon_steps=N goes on longer")
    say("(the learning rate has ended where the schedule did, unless its horizon moves too).")
    if folder.status.get("source_hash") != source_hash():
        say("The source code has changed since.")
    if reason := folder.status.get("reason"):
        say(f"It was stopped early: {reason}.")
    summary, rows = read_object(folder.summary), read_rows(folder.samples)
    try:
        samples = [sample for sample in rows if sample.get("step", summary["step"]) == summary["step"]]
        print_summary(summary, samples, folder.path)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise DamagedFile(f"{folder.summary} and {folder.samples.name} must be as the run wrote them.") from None
    return Exit.FINISHED
