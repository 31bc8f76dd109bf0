"""The files that a user names, and which of them are held out by name."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minimind.utils.errors import UserError
from minimind.utils.paths import find_existing


@dataclass(frozen=True)
class NamedFiles:
    """Files in the order named, without repeats; each with its path below the fixed part of its pattern."""

    names: dict[Path, str]
    validation: frozenset[Path]  # held out by name; the rest is for training, if there are any

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.names)

    def held_out(self, file: str) -> bool | None:
        """Whether a file is held out by name; None: its text decides."""
        return Path(file) in self.validation if self.validation else None

    def made_of(self) -> list[tuple[str, int, int]]:
        return files_made_of(self.names)


def named_files(files: list[str], validation_files: list[str]) -> NamedFiles:
    """Raises: UserError, if a pattern matches nothing."""
    held_out = find_files(validation_files, "data.validation_files")
    found = find_files(files, "data.files")
    return NamedFiles({**found, **{path: name for path, name in held_out.items() if path not in found}},
                      frozenset(held_out))  # fmt: skip


def find_files(patterns: list[str], what: str) -> dict[Path, str]:
    """Files and globs, in the order named and without repeats → path below the fixed part of the pattern.

    That path stays what it is when files are added, as a path below the folder common to all would not.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        fixed = _fixed_part(pattern)
        names = {find_existing(match, f"A file of {what}"): Path(match).relative_to(fixed) for match in matches}
        files = {path: name.as_posix() for path, name in names.items() if path.is_file()}
        if not files:
            raise UserError(f"{what} must name files, but {pattern} matches none.")
        found = {**found, **{path: name for path, name in files.items() if path not in found}}
    return found


def _fixed_part(pattern: str) -> Path:
    """The folders before the first wildcard; of a plain name, the folder it is in."""
    folders = Path(pattern).parent.parts
    wild = next((i for i, part in enumerate(folders) if glob.has_magic(part)), len(folders))
    return Path(*folders[:wild])


def files_made_of(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each."""
    return [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
