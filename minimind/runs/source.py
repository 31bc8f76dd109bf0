"""The code that produced a run: a hash of the source, the git commit if any, and library versions."""

import hashlib
import platform
import subprocess
from importlib.metadata import version

from minimind.utils.paths import PACKAGE, REPOSITORY

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "tokenizers", "numpy", "torchmetrics")


def source_hash() -> str:
    """Sixteen hex digits of a hash over all Python files of the package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str | None:
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
