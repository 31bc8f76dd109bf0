"""`train.py`: from a composed configuration to a finished run folder."""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minimind.cli.app import FAILED, FINISHED, PREEMPTED, guarded, run_app
from minimind.cli.help import train_help

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minimind.config.schema import TrainConfig

FROZEN = "--frozen"


def main() -> int:
    if sys.argv[1:2] == [FROZEN]:
        return guarded(lambda: _run_frozen(Path(sys.argv[2])))
    return run_app("train", _task, train_help)


def _task(composed: "DictConfig") -> int:
    """In a multirun each job is a process of its own: nothing leaks between jobs, and one failure ends one job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from minimind.utils.paths import default_root

    hydra_config = HydraConfig.get()
    choices: Any = hydra_config.runtime.choices
    composed.run.name = composed.run.name or f"{choices.model}-{choices.data}"
    composed.paths.root = composed.paths.root or str(default_root())
    overrides = list(hydra_config.overrides.task)
    if named := _named_folder(composed.run.resume):
        composed = _stored(named, overrides)
    composed.run.command = shlex.join(["python", "train.py", *overrides])
    if "wandb" in composed.logger and not composed.logger.wandb.group:
        composed.logger.wandb.group = _group(choices.get("experiment"), hydra_config.mode is RunMode.MULTIRUN)
    if hydra_config.mode is RunMode.RUN:
        return run(composed)
    from minimind.config.checks import to_config

    to_config(composed)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(OmegaConf.to_yaml(composed, resolve=True))
        file.flush()
        return subprocess.run([sys.executable, "-m", "minimind.cli.train", FROZEN, file.name]).returncode


def _group(experiment: str | None, multirun: bool) -> str | None:
    """What runs that belong together share at W&B: the experiment, and in a multirun the command line of it all."""
    names = [experiment] if experiment else []
    if multirun:
        names.append(hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:8])
    return "-".join(names if experiment or not multirun else ["multirun", *names]) or None


def _run_frozen(file: Path) -> int:
    from minimind.config.schema import load_stored

    return run(load_stored(file))


def _named_folder(resume: str) -> Path | None:
    """The run folder that `run.resume` names, if it is none of the words."""
    from minimind.utils.paths import find_existing

    return None if resume in ("auto", "must", "never") else find_existing(resume, "run.resume (or a run folder)")


def _stored(folder: Path, overrides: list[str]) -> "DictConfig":
    """The configuration of an earlier run with what was typed now: how `run.resume=<folder>` goes on longer."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from minimind.config.schema import load_stored
    from minimind.utils.errors import ConfigError

    cfg = load_stored(folder / "config.yaml")
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if "." not in key and key not in ("seed",):
            raise ConfigError([f"`{key}=` must not be given with run.resume={folder.name}: the run has its own."])
        OmegaConf.update(cfg, key, override.value())
    cfg.run.resume = str(folder)
    return cfg


def run(composed: "DictConfig") -> int:
    """Checks, prepares the data, and trains; the folder is made only when everything else is known to be good."""
    from minimind.config.checks import to_config
    from minimind.config.schema import load_stored
    from minimind.runs.folder import FINISHED as STATE_FINISHED
    from minimind.runs.folder import RunFolder
    from minimind.runs.identity import run_hash
    from minimind.utils.errors import UserError

    cfg = to_config(composed)
    config = _plain(composed)
    named = _named_folder(cfg.run.resume)
    folder = RunFolder(named or Path(cfg.paths.runs) / f"{cfg.run.name}-{run_hash(config)}")
    if cfg.run.fresh and folder.path.exists() and not _restarted():
        print(f"run.fresh: the old folder is now {folder.move_aside().name}.", file=sys.stderr)
    status = folder.status
    if status and cfg.run.resume == "never":
        raise UserError(f"{folder.path} must not exist with run.resume=never; use run.fresh=true or run.tag=….")
    if not status and cfg.run.resume == "must":
        raise UserError(f"{folder.path} must exist with run.resume=must, but does not.")
    # one that was stopped early has fewer steps, and is finished unless its settings are others now
    if status.get("state") == STATE_FINISHED and (
        status["step"] >= cfg.trainer.max_steps or run_hash(config) == run_hash(_plain(load_stored(folder.config)))
    ):
        return _show_finished(folder)
    return _train(cfg, config, folder)


def _plain(config: "DictConfig") -> dict[str, Any]:
    from omegaconf import OmegaConf

    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))


def _restarted() -> bool:
    """Whether a scheduler starts this command again: then `run.fresh` has been done."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def _show_finished(folder: Any) -> int:
    from minimind.report.summary import print_summary
    from minimind.runs.metrics_file import read_rows
    from minimind.runs.source import source_hash
    from minimind.utils.files import read_json

    print("This run is finished. run.fresh=true does it again, run.tag=NAME makes another of the same settings,")
    print(f"run.resume={folder.path} trainer.max_steps=N schedule.horizon_steps=N goes on longer")
    print("(the learning rate has ended where the schedule did, unless its horizon moves too).")
    if folder.status.get("source_hash") != source_hash():
        print("The source code has changed since.")
    if reason := folder.status.get("reason"):
        print(f"It was stopped early: {reason}.")
    summary = read_json(folder.summary)
    samples = [sample for sample in read_rows(folder.samples) if sample.get("step", summary["step"]) == summary["step"]]
    print_summary(summary, samples, folder.path)
    return FINISHED


def _train(cfg: "TrainConfig", config: dict[str, Any], folder: Any) -> int:
    from minimind.cli.quiet import quiet_libraries
    from minimind.runs.folder import FAILED as STATE_FAILED
    from minimind.runs.folder import PREEMPTED as STATE_PREEMPTED
    from minimind.runs.lock import run_lock
    from minimind.utils.errors import UserError

    quiet_libraries()
    from minimind.cli.session import Session
    from minimind.training.callbacks.preemption import Preempted

    session = Session(cfg, config, folder)
    code = FAILED
    with run_lock(folder.lock):
        try:
            session.start()
            session.fit()
            session.finish()
            code = FINISHED
        except Preempted as reason:
            code = PREEMPTED
            folder.update_status(state=STATE_PREEMPTED, reason=str(reason))
            print(
                f"Stopped by {reason} with a checkpoint in {folder.path}. Run the same command to go on.",
                file=sys.stderr,
            )
        except UserError:
            raise
        except Exception as error:
            import traceback

            folder.update_status(state=STATE_FAILED, reason=f"{type(error).__name__}: {error}")
            (folder.path / "traceback.txt").write_text(traceback.format_exc())
            traceback.print_exc()
            print(f"Failed; the traceback is in {folder.path / 'traceback.txt'}.", file=sys.stderr)
        finally:
            session.close(code, preempted=code == PREEMPTED)
    return code


if __name__ == "__main__":
    sys.exit(main())
