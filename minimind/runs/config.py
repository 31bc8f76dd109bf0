"""Settings of a run's name, resumption and paths."""

import re
from dataclasses import dataclass

from minimind.utils.errors import ConfigError
from minimind.utils.terminal import visible

# Characters that `visible` keeps but a name may not have: invisible letters and variation selectors, spaces other than
# U+0020, and joiners next to ASCII.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]"
    "|[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]"
    "|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]|[\u200c\u200d](?![^\x00-\x7f])"
)
MAX_NAME_BYTES = 200  # file systems allow 255, and -<hash8> and .old-<n> are appended


@dataclass
class RunConfig:
    name: str | None = None  # label in the folder's name; None: <model>-<data>
    tag: str | None = None  # changes the identity, for another run of the same configuration
    fresh: bool = False  # move the old folder aside and start over
    resume: str = "auto"  # auto, must, never, or a run folder
    accept_data_change: bool = False
    command: str | None = None  # the command line, filled in automatically
    max_minutes: float | None = None  # since this command started; then save a checkpoint and stop, as after a signal
    requeue: bool = False  # under SLURM: requeue the job after SIGUSR1 or max_minutes

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: RunConfig) -> list[str]:
    found = []
    if cfg.name is not None:
        found += _name_problems(cfg.name)
    if cfg.tag is not None and not _is_visible(cfg.tag):
        found.append(f"`run.tag` must be one line of visible characters, but is {_escape(cfg.tag)}; change it.")
    if cfg.max_minutes is not None and cfg.max_minutes <= 0:
        found.append(f"`run.max_minutes` must be above 0 (or null: no limit), but is {cfg.max_minutes}.")
    if cfg.fresh and cfg.resume not in ("auto", "never"):
        found.append(
            f"`run.resume` must be auto or never with run.fresh=true, but is {cfg.resume}: a run can either start over "
            "or resume; leave one of them out."
        )
    return found


def _name_problems(name: str) -> list[str]:
    size = len(name.encode(errors="replace"))
    if not name:
        return ["`run.name` must not be empty, but is; leave it out for <model>-<data>."]
    if size > MAX_NAME_BYTES:
        return [f"`run.name` must have at most {MAX_NAME_BYTES} bytes, but has {size}; shorten it."]
    if name.startswith((".", "-")) or "/" in name or "\\" in name or not _is_visible(name):
        return [
            f"`run.name` must be a folder name without slashes, a leading dot or `-`, or invisible characters, but is "
            f"{_escape(name)}; use letters, digits, dots, `-` and `_`."
        ]
    return []


def _escape(text: str) -> str:
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], repr(text))


def _is_visible(text: str) -> bool:
    return visible(text) == text and not {"\n", "\t"} & set(text) and not _INVISIBLE.search(text) and text.strip() != ""


@dataclass
class PathsConfig:
    root: str | None = None  # None: $MINIMIND_ROOT, or the folder of train.py
    runs: str = "${paths.root}/runs"
    sweeps: str = "${paths.root}/sweeps"
    cache: str = "${paths.root}/cache"
