"""MiniMind: experiments on small language models, from raw text to a table with confidence intervals.

The public names are resolved when they are first used, so that `import minimind` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimind.library import generate, load, stream
    from minimind.model.config import ModelConfig
    from minimind.model.transformer import MiniMind
    from minimind.utils.user_code import allow

__all__ = ["MiniMind", "ModelConfig", "allow", "generate", "load", "stream"]

_MODULES = {
    "MiniMind": "minimind.model.transformer",
    "ModelConfig": "minimind.model.config",
    "allow": "minimind.utils.user_code",
    "generate": "minimind.library",
    "load": "minimind.library",
    "stream": "minimind.library",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'minimind' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
