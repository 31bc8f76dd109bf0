"""How Lightning reads the state of a run that goes on: as everything else here reads it."""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import TorchCheckpointIO

from minimind.training.checkpoint import load_state


class SafeCheckpointIO(TorchCheckpointIO):
    """Not mapped into memory: training changes the optimizer's state in place, and deletes old checkpoints."""

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return load_state(Path(path).parent, mmap=False)
