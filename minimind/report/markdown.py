"""Renders blocks as GitHub Markdown. All text is escaped: no name in it can become markup, HTML or a link."""

import re
from collections.abc import Iterable

from minimind.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Heading,
    Link,
    Paragraph,
    Picture,
    Table,
    address,
    parts,
)
from minimind.utils.terminal import visible

SPECIAL = re.compile(r"[\\`*~#$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")  # possible markup; `_` inside a word is not
IN_LABEL = re.compile(rf"[\[\]]|{SPECIAL.pattern}")  # the text of a link, which a bracket would end
ENTITY = re.compile(r"&(?=[#\w])")
START = re.compile(r"^(\d*)(?=[-+>.)=\[])")  # a line that would start a list, quotation, setext heading or task


def to_markdown(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_text(text)}"
        case Paragraph(text, lead):
            return f"**{_text(lead)}** {_text(text)}".strip() if lead else _line(text)
        case Bullets(items):
            return "\n".join(f"- {_line(item)}" for item in items)
        case Code(text):
            return _fenced(visible(text))
        case Picture(path, description):
            return f"![{_text(description, IN_LABEL)}]({address(path)})"
        case Table(header, rows, text_columns):
            ruler = ["---" if column in text_columns else "---:" for column in range(len(header))]
            cells = [[_cell(cell) for cell in row] for row in (header, *rows)]
            return "\n".join("| " + " | ".join(row) + " |" for row in (cells[0], ruler, *cells[1:]))


def _fenced(text: str) -> str:
    """Uses a fence longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{_text(cell.text, IN_LABEL)}]({address(cell.target)})".replace("|", r"\|")
    return _text(cell).replace("|", r"\|")


def _line(text: str) -> str:
    return START.sub(r"\1\\", _text(text).strip())


def _text(text: str, special: re.Pattern[str] = SPECIAL) -> str:
    r"""Does not mark up code that contains `\|`: parsers disagree on where its table cell ends (cmark-gfm #277)."""
    shown = (f"`{part}`" if code and r"\|" not in part else _escaped(part, special) for code, part in parts(text))
    return "".join(shown)


def _escaped(text: str, special: re.Pattern[str]) -> str:
    return special.sub(r"\\\g<0>", ENTITY.sub("&amp;", text)).replace("<", "&lt;")
