"""The wrapper around Hydra: our own help, all configuration errors at once, and meaningful exit codes."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minimind.runs.states import Exit
from minimind.utils.errors import ConfigError, UserError, suggestion
from minimind.utils.paths import conf_dir
from minimind.utils.ranks import is_main_process
from minimind.utils.terminal import say


def without_plus(arguments: Sequence[str], key: str) -> list[str]:
    """Replaces `+key=…` and `++key=…` by `key=…`, for keys that we look for before Hydra does."""
    return [re.sub(rf"^\+\+?(?={re.escape(key)}=)", "", argument) for argument in arguments]


def run_app(config_name: str, task: Callable[..., int | None], help_text: Callable[[Path], str]) -> int:
    """Composes `config_name` from the command line, runs `task` with it, and returns the exit code."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        say(help_text(conf_dir()))
        return Exit.FINISHED
    return guarded(lambda: _compose_and_run(config_name, task))


def guarded(action: Callable[[], int | None]) -> int:
    """Runs `action`; a user error becomes a message and exit code 2, never a traceback."""
    try:
        return action() or Exit.FINISHED
    except UserError as error:
        if is_main_process() or not isinstance(error, ConfigError):  # every process raises the same ConfigError
            say(explain(error), file=sys.stderr)
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        say("\nInterrupted; nothing was changed since the last checkpoint.", file=sys.stderr)
        return Exit.PREEMPTED
    except BrokenPipeError:  # the reader of our output has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FINISHED
    except Exception:
        say(traceback.format_exc(), end="", file=sys.stderr)
        return Exit.FAILED


def explain(error: UserError) -> str:
    if not isinstance(error, ConfigError):
        return str(error)
    problems = error.problems
    head = "The configuration is invalid:" if len(problems) == 1 else f"The configuration has {len(problems)} errors:"
    return "\n  - ".join([head, *problems])


def _compose_and_run(config_name: str, task: Callable[..., int | None]) -> int | None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    from minimind.config.schema import register

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own traceback and exits with 1
    codes: list[int] = []
    errors: list[BaseException] = []  # kept from Hydra, which would print them

    @hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")
    def main(cfg: DictConfig) -> int:
        """Returns the exit code for sweepers; `codes` keeps that of a single run, which Hydra discards."""
        try:
            codes.append(task(cfg) or Exit.FINISHED)
        except BaseException as error:
            errors.append(error)
            return Exit.BAD_INPUT if isinstance(error, UserError) else Exit.FAILED
        return codes[-1]

    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_config_errors(config_name, sys.argv[1:], error)) from None
    except YAMLError as error:
        raise ConfigError([f"A file in conf/ is not valid YAML: {' '.join(str(error).split())}"]) from None
    if errors:
        raise errors[0]
    return max(codes, default=Exit.FINISHED)


def _config_errors(config_name: str, arguments: list[str], error: Exception) -> list[str]:
    """All errors in the command line: Hydra stops at the first, so each override is tried separately."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    choices = [a for a in arguments if "=" in a and "." not in a.split("=")[0] and not a.startswith(("-", "+", "~"))]
    problems = []
    for argument in [a for a in arguments if not a.startswith("-")]:
        GlobalHydra.instance().clear()
        context = [choice for choice in choices if choice != argument and _is_group(choice.split("=")[0])]
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                compose(config_name, overrides=[*context, argument])
        except (HydraException, OmegaConfBaseException) as problem:
            problems.append(f"{argument}: {_readable(problem)}")
    return problems or [_readable(error)]


def _is_group(name: str) -> bool:
    return (conf_dir() / name).is_dir()


def _readable(error: Exception) -> str:
    """The message of Hydra or OmegaConf without debugging lines; an unknown key gets a suggestion."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    dropped = ("full_key:", "reference_type=", "object_type=", "To append to your config", "Config search path",
               "provider=", "Set the environment", "Error merging override", "See https")  # fmt: skip
    lines = [line for line in lines if not line.startswith(dropped)]
    parents: list[Any] = [getattr(e, "parent_node", None) for e in (error, error.__cause__)]
    known = next((list(parent.keys()) for parent in parents if parent is not None), [])
    missing = next((line for line in lines if line.startswith("Key '")), None)
    if missing and known:
        key = missing.split("'")[1]
        return f"there is no setting `{key}` here; {suggestion(key, [str(k) for k in known])}"
    return " ".join(line for line in lines if not line.endswith("_schema"))
