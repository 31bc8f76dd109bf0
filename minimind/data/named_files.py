"""Finds the files that a configuration names, and which of them are held out."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minimind.utils.errors import UserError
from minimind.utils.paths import find_existing


@dataclass(frozen=True)
class NamedFiles:
    """Files in the order named, without duplicates."""

    names: dict[Path, str]  # path → name: its path relative to the fixed part of the pattern
    validation: frozenset[Path]  # explicitly held out; if there are any, all other files are for training

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.names)

    def held_out(self, file: str) -> bool | None:
        """Whether a file is explicitly held out; None: no validation files were named."""
        return Path(file) in self.validation if self.validation else None

    def cache_key(self) -> list[tuple[str, int, int]]:
        return file_stats(self.names)


def named_files(files: list[str], validation_files: list[str]) -> NamedFiles:
    """Raises: UserError, if a pattern matches no file."""
    held_out = find_files(validation_files, "data.validation_files")
    found = find_files(files, "data.files")
    return NamedFiles({**found, **{path: name for path, name in held_out.items() if path not in found}},
                      frozenset(held_out))  # fmt: skip


def find_files(patterns: list[str], option: str) -> dict[Path, str]:
    """Resolve paths and globs to {path: path relative to the fixed part of the pattern}, without duplicates.

    The relative path does not change when files are added; relative to a common parent folder, it might.

    Raises:
        UserError: a pattern matches no file.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        fixed = _fixed_part(pattern)
        names = {find_existing(match, f"A file of {option}"): Path(match).relative_to(fixed) for match in matches}
        files = {path: name.as_posix() for path, name in names.items() if path.is_file()}
        if not files:
            raise UserError(f"{option} must name files, but {pattern} matches none.")
        found = {**found, **{path: name for path, name in files.items() if path not in found}}
    return found


def _fixed_part(pattern: str) -> Path:
    """Folders before the first wildcard; for a path without wildcards, its parent folder."""
    folders = Path(pattern).parent.parts
    wild = next((i for i, part in enumerate(folders) if glob.has_magic(part)), len(folders))
    return Path(*folders[:wild])


def file_stats(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and modification time (in ns) of each file."""
    return [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
