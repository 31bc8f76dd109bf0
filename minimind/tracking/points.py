"""The run folder as a sequence of points: figures, samples and histograms, by step."""

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
    """The whole lines of a file of JSON lines that were added since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = self.lines = 0

    def read(self) -> list[dict[str, Any]]:
        """Raises: DamagedFile, if one of them is not a JSON object."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        first = self.lines + 1
        self.offset, self.lines = self.offset + len(whole), self.lines + whole.count(b"\n")
        return parse_rows(whole, self.path, first)


class Points:
    def __init__(self, run: RunFolder) -> None:
        # The rows first: what belongs to a step is written before the row of the next one, and so is not missed.
        self.rows, self.samples, self.histograms = (Tail(p) for p in (run.metrics, run.samples, run.histograms))

    def new(self) -> list[Point]:
        """Those added since the last look, by step; one step may come again with what was added to it later."""
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
