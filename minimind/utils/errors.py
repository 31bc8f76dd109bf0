"""The errors a user can mend."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user gave (a file, a flag, a corpus): shown as a message, exit code 2."""


class ConfigError(UserError, ValueError):
    """One or more broken rules of the configuration, reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))
