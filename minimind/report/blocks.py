"""A document as a list of blocks, which is rendered as Markdown, as HTML and in the terminal.

Text between backticks is code; nothing else in a block's text is markup. The text may contain untrusted names: a
renderer must take it from `parts`, and URLs from `address`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from minimind.utils.terminal import one_line

CODE = re.compile(r"((?:`[^`]+`)+)")  # adjacent spans are one: Markdown reads `` as a different delimiter than `


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
    lead: str = ""  # bold, before the text


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
    """Rows of cells; the columns in `text_columns` are left-aligned text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: Sequence[int] = (0,)


Block = Heading | Paragraph | Bullets | Code | Picture | Table


def parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yields (is code, text) for each part, escaped to one line of visible characters; an unpaired backtick is text."""
    for number, part in enumerate(CODE.split(one_line(text))):
        yield bool(number % 2), part.replace("`", "") if number % 2 else part


def address(path: str) -> str:
    """A path as a relative URL: `javascript:` and `//host` are taken for file names, never for a scheme or host."""
    return quote(path.lstrip("/"), errors="surrogateescape")
