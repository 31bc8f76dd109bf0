"""metrics.jsonl: one object for each log point, the truth of which every other record is a mirror."""

import json
from pathlib import Path
from typing import Any


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds one line, whole, to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def truncate_after(path: Path, step: int) -> None:
    """Moves rows beyond `step` to <name>.superseded, so that a resumed run has each step once."""
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) == len(rows):
        return
    for row in rows[len(kept) :]:
        append_row(path.with_suffix(".superseded.jsonl"), row)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
