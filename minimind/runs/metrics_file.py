"""metrics.jsonl: one object for each log point, the truth of which every other record is a mirror."""

import json
import os
from pathlib import Path
from typing import Any

from minimind.utils.files import write_text

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
    """All whole lines; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def truncate_after(path: Path, step: int) -> None:
    """Moves rows beyond `step` to <name>.superseded.jsonl, so that a resumed run has each step once.

    Both files are replaced whole. A kill between the two leaves the rows in both, and the next call finds them there.
    """
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    moved = rows[len(kept) :]
    aside = path.with_suffix(".superseded.jsonl")
    superseded = read_rows(aside)
    if moved and superseded[-len(moved) :] != moved:
        write_text(aside, _lines([*superseded, *moved]))
    if path.is_file() and path.read_text(encoding="utf-8") != _lines(kept):  # a line cut off goes as well
        write_text(path, _lines(kept))


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
