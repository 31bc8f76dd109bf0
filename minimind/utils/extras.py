"""What is said where a package is missing that only some need."""

from minimind.utils.errors import UserError


def missing_extra(extra: str, purpose: str) -> UserError:
    return UserError(f"{purpose}, an optional package must be installed, but is not: pip install 'minimind[{extra}]'.")
