"""The errors a user can mend."""

import difflib
import re
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user gave (a file, a flag, a corpus): shown as a message, exit code 2."""


class ConfigError(UserError, ValueError):
    """One or more broken rules of the configuration, reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DamagedFile(UserError, ValueError):
    """A file that is not what it should be: cut short, edited, or something else altogether."""


class RunFailed(Exception):
    """A run that cannot go on, though nothing in the code is wrong: shown as a message, state failed, exit code 1."""


ADVICE = re.compile(r"https?://|weights_only|allow_pickle|trust_remote_code|local_files_only|set_int_max|pickle", re.I)
BRIEF = 300  # characters


def in_brief(error: BaseException) -> str:
    """What a library found wrong, in one line and without what it recommends: that may be to trust the file."""
    sentences = re.split(r"(?<=[.!?;])\s+", str(error).strip().split("\n")[0])
    kept = " ".join(sentence for sentence in sentences[:2] if not ADVICE.search(sentence))
    return (kept if kept.isprintable() and kept else type(error).__name__)[:BRIEF].rstrip(" .;")


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(known))}."
