"""Errors shown to the user as a message, without a traceback."""

import difflib
import re
from collections.abc import Sequence


class UserError(Exception):
    """Invalid input, such as a file, an option or a corpus; exit code 2."""


class ConfigError(UserError, ValueError):
    """One or more problems in the configuration, reported together."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DamagedFile(UserError, ValueError):
    """A file that is truncated, corrupt, edited or of another kind."""


class RunFailed(Exception):
    """A run cannot continue, though not because of a bug; state `failed`, exit code 1."""


ADVICE = re.compile(r"https?://|weights_only|allow_pickle|trust_remote_code|local_files_only|set_int_max|pickle", re.I)
MAX_CHARACTERS = 300


def in_brief(error: BaseException) -> str:
    """A library's error message in one line, without its advice, which may be to trust the file."""
    sentences = re.split(r"(?<=[.!?;])\s+", str(error).strip().split("\n")[0])
    kept = " ".join(sentence for sentence in sentences[:2] if not ADVICE.search(sentence))
    return (kept if kept.isprintable() and kept else type(error).__name__)[:MAX_CHARACTERS].rstrip(" .;")


def suggestion(name: str, known: Sequence[str]) -> str:
    """The closest of the known names, or all of them, for an error about an unknown name."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"available: {', '.join(sorted(known))}."


def missing_extra(extra: str, purpose: str) -> UserError:
    return UserError(f"{purpose}, an optional package must be installed, but is not: pip install 'minimind[{extra}]'.")
