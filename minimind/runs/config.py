"""How a run is named, and where it stands."""

import re
from dataclasses import dataclass

from minimind.utils.errors import ConfigError
from minimind.utils.terminal import visible

# What `visible` lets pass and a name may not have: letters and variants without a shape, blanks but the common one, and
# joiners, which do nothing beside ASCII.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]"
    "|[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]"
    "|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]|[\u200c\u200d](?![^\x00-\x7f])"
)
LONGEST_NAME = 200  # bytes, of the 255 that file systems take: -<hash8> and .old-<n> come behind it


@dataclass
class RunConfig:
    name: str | None = None  # label of the folder; None: <model>-<data>
    tag: str | None = None  # changes the identity, for one more run of the same configuration
    fresh: bool = False  # move the old folder aside and start again
    resume: str = "auto"  # auto, must, never, or a run folder
    accept_data_change: bool = False
    command: str | None = None  # what was typed; filled in, for the record
    max_minutes: float | None = None  # of this start; then a checkpoint, and the end as if by a signal
    requeue: bool = False  # under SLURM: the job goes back into the queue after SIGUSR1 or max_minutes

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: RunConfig) -> list[str]:
    found = []
    if cfg.name is not None:
        found += _problems_of_name(cfg.name)
    if cfg.tag is not None and not _is_seen(cfg.tag):
        found.append(f"`run.tag` must be one line of characters that are seen, but is {_shown(cfg.tag)}; change it.")
    if cfg.max_minutes is not None and cfg.max_minutes <= 0:
        found.append(f"`run.max_minutes` must be above 0 (or null: no limit), but is {cfg.max_minutes}.")
    if cfg.fresh and cfg.resume not in ("auto", "never"):
        found.append(
            f"`run.resume` must be auto or never with run.fresh=true, but is {cfg.resume}: a run is either started "
            "again or gone on with; leave one of them out."
        )
    return found


def _problems_of_name(name: str) -> list[str]:
    size = len(name.encode(errors="replace"))
    if not name:
        return ["`run.name` must not be empty, but is; leave it out for <model>-<data>."]
    if size > LONGEST_NAME:
        return [f"`run.name` must have at most {LONGEST_NAME} bytes, but has {size}; shorten it."]
    if name.startswith((".", "-")) or "/" in name or "\\" in name or not _is_seen(name):
        return [
            f"`run.name` must name a folder, without slashes, a dot or `-` in front, or characters that are not seen, "
            f"but is {_shown(name)}; use letters, digits, dots, `-` and `_`."
        ]
    return []


def _shown(text: str) -> str:
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], repr(text))


def _is_seen(text: str) -> bool:
    return visible(text) == text and not {"\n", "\t"} & set(text) and not _UNSEEN.search(text) and text.strip() != ""


@dataclass
class PathsConfig:
    root: str | None = None  # None: $MINIMIND_ROOT, or the folder of train.py
    runs: str = "${paths.root}/runs"
    sweeps: str = "${paths.root}/sweeps"
    cache: str = "${paths.root}/cache"
