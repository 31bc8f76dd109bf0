"""The run folder as a sequence of points: metrics, samples and histograms by step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import parse_rows


@dataclass
class Point:
    step: int
    metrics: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    histograms: dict[str, Any] = field(default_factory=dict)


class Tail:
    """Reads the complete lines that were added to a JSON Lines file since the last read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = self.lines = 0

    def read(self) -> list[dict[str, Any]]:
        """Raises: DamagedFile, if a line is not a JSON object."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        first = self.lines + 1
        self.offset, self.lines = self.offset + len(complete), self.lines + complete.count(b"\n")
        return parse_rows(complete, self.path, first)


class Points:
    def __init__(self, run: RunFolder) -> None:
        # Rows are read first: samples and histograms of a step are written before the next row, so none is missed.
        self.rows, self.samples, self.histograms = (Tail(p) for p in (run.metrics, run.samples, run.histograms))

    def new(self) -> list[Point]:
        """Points added since the last call, by step; a step returns if more was added to it later."""
        points: dict[int, Point] = {}

        def at(step: int) -> Point:
            return points.setdefault(step, Point(step))

        for row in self.rows.read():
            at(row["step"]).metrics.update(row)
        for sample in self.samples.read():
            at(sample["step"]).samples.append(sample)
        for row in self.histograms.read():
            at(row["step"]).histograms.update(row["histograms"])
        return [points[step] for step in sorted(points)]
