"""The errors a user can mend."""

import difflib
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


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(known))}."
