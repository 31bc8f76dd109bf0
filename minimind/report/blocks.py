"""A document as a list of blocks, of which Markdown, HTML and the terminal are three renderings.

In all text, `…` between backticks is code; nothing else is markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    text: str
    target: str  # relative to the document's folder


Cell = str | Link


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str
    lead: str = ""  # printed bold, before it


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Picture:
    path: str  # relative to the document's folder
    description: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns whose number is in `wordy` are read as text, the others as figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wordy: Sequence[int] = (0,)


Block = Heading | Paragraph | Bullets | Code | Picture | Table
