"""The errors a user can mend."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user gave (a file, a flag, a corpus): shown as a message, exit code 2."""


class ConfigError(UserError, ValueError):
    """One or more broken rules of the configuration, reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RunFailed(Exception):
    """A run that cannot go on, though nothing in the code is wrong: shown as a message, state failed, exit code 1."""
