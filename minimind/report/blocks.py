"""A document as a list of blocks, of which Markdown, HTML and the terminal are three renderings.

In all text, `…` between backticks is code; nothing else is markup. Names in it may come from others, and may hold
anything: a rendering takes its text from `parts` and its addresses from `address`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from minimind.utils.terminal import one_line

CODE = re.compile(r"((?:`[^`]+`)+)")  # what touches is one: in Markdown, `` would be another mark than `


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
    """MetricsWriter of cells; columns whose number is in `wordy` are read as text, the others as metrics."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wordy: Sequence[int] = (0,)


Block = Heading | Paragraph | Bullets | Code | Picture | Table


def parts(text: str) -> Iterator[tuple[bool, str]]:
    """Whether it is code, and the text, in visible characters and on one line; a backtick without a partner is text."""
    for number, part in enumerate(CODE.split(one_line(text))):
        yield bool(number % 2), part.replace("`", "") if number % 2 else part


def address(path: str) -> str:
    """A path as a URL that leads nowhere else: `javascript:` and `//host` are names of files."""
    return quote(path.lstrip("/"), errors="surrogateescape")
