"""metrics.jsonl: one object for each log point, the truth of which every other record is a mirror."""

import json
import os
from pathlib import Path
from typing import Any

from minimind.utils.errors import DamagedFile
from minimind.utils.files import parse_json, write_text

Row = dict[str, Any]


def append_row(path: Path, row: Row) -> None:
    append_rows(path, [row])


def append_rows(path: Path, rows: list[Row]) -> None:
    """Adds whole lines to the file, or, raising OSError, nothing."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_lines(rows))
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def read_rows(path: Path) -> list[Row]:
    """All whole lines; a last line cut off by a kill is left out.

    Raises:
        DamagedFile: another line is not a JSON object.
    """
    return parse_rows(path.read_bytes(), path) if path.is_file() else []


def parse_rows(data: bytes, path: Path, first: int = 1) -> list[Row]:
    """The whole lines among these bytes of the file, the line `first` and those after it; raises as `read_rows`."""
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=first):
        if line:
            try:
                row = parse_json(line)
            except ValueError as error:
                raise _damaged(path, number, str(error)) from None
            if not isinstance(row, dict):
                raise _damaged(path, number, f"is a {type(row).__name__}")
            rows.append(row)
    return rows


def _damaged(path: Path, number: int, reason: str) -> DamagedFile:
    return DamagedFile(f"{path}, line {number}: must be a JSON object, but {reason}; take that line out of the file.")


def check_rows(path: Path) -> None:
    """Looks at all that `truncate_after` will read, so that nothing is written where it would not come to its end.

    Raises:
        DamagedFile: a line is no row of a step.
    """
    read_rows(_superseded(path))
    for number, row in enumerate(read_rows(path), start=1):
        if type(row.get("step")) is not int:
            raise _damaged(path, number, "has no `step`")


def _superseded(path: Path) -> Path:
    return path.with_suffix(".superseded.jsonl")


def truncate_after(path: Path, step: int) -> None:
    """Moves rows beyond `step` to <name>.superseded.jsonl, so that a resumed run has each step once.

    Both files are replaced whole. A kill between the two leaves the rows in both, and the next call finds them there.
    """
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    moved = rows[len(kept) :]
    aside = _superseded(path)
    superseded = read_rows(aside)
    if moved and superseded[-len(moved) :] != moved:
        write_text(aside, _lines([*superseded, *moved]))
    if path.is_file() and path.read_text(encoding="utf-8") != _lines(kept):  # a line cut off goes as well
        write_text(path, _lines(kept))


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
