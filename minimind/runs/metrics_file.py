"""metrics.jsonl: one JSON object per log point, from which all other records are derived."""

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
    """Append whole lines to the file, or nothing if an OSError is raised."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_lines(rows))
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def read_rows(path: Path) -> list[Row]:
    """All complete lines; a last line truncated by a kill is left out.

    Raises:
        DamagedFile: another line is not a JSON object.
    """
    return parse_rows(path.read_bytes(), path) if path.is_file() else []


def parse_rows(data: bytes, path: Path, first: int = 1) -> list[Row]:
    """The complete lines in these bytes of the file, of which the first has the number `first`; see `read_rows`."""
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
    return DamagedFile(f"{path}, line {number}: must be a JSON object, but {reason}; remove that line.")


def check_rows(path: Path) -> None:
    """Check all that `truncate_after` reads, so that it cannot fail halfway.

    Raises:
        DamagedFile: a line is not a JSON object, or has no step.
    """
    read_rows(_superseded(path))
    for number, row in enumerate(read_rows(path), start=1):
        if type(row.get("step")) is not int:
            raise _damaged(path, number, "has no `step`")


def _superseded(path: Path) -> Path:
    return path.with_suffix(".superseded.jsonl")


def truncate_after(path: Path, step: int) -> None:
    """Move rows beyond `step` to <name>.superseded.jsonl, so that a resumed run has each step once.

    Both files are replaced atomically. A kill in between leaves the rows in both, which the next call detects.
    """
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    moved = rows[len(kept) :]
    aside = _superseded(path)
    superseded = read_rows(aside)
    if moved and superseded[-len(moved) :] != moved:
        write_text(aside, _lines([*superseded, *moved]))
    if path.is_file() and path.read_text(encoding="utf-8") != _lines(kept):  # also drops a truncated line
        write_text(path, _lines(kept))


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
