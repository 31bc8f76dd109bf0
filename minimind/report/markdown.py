"""Blocks → Markdown, as GitHub reads it. Text stays text: no name in it can become markup, HTML or a link."""

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

SPECIAL = re.compile(r"[\\`*~#$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")  # could be markup; within a word _ is none
IN_LABEL = re.compile(rf"[\[\]]|{SPECIAL.pattern}")  # of a link, which a bracket would end
ENTITY = re.compile(r"&(?=[#\w])")
START = re.compile(r"^(\d*)(?=[-+>.)=\[])")  # of a line: a list, a quotation, a heading's underline, a task


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
        case Table(header, rows, wordy):
            ruler = ["---" if column in wordy else "---:" for column in range(len(header))]
            cells = [[_cell(cell) for cell in row] for row in (header, *rows)]
            return "\n".join("| " + " | ".join(row) + " |" for row in (cells[0], ruler, *cells[1:]))


def _fenced(text: str) -> str:
    """Between fences that are longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{_text(cell.text, IN_LABEL)}]({address(cell.target)})".replace("|", r"\|")
    return _text(cell).replace("|", r"\|")


def _line(text: str) -> str:
    return START.sub(r"\1\\", _text(text).strip())


def _text(text: str, special: re.Pattern[str] = SPECIAL) -> str:
    r"""Code with `\|` is not set as code: readers of tables disagree where its cell would end (cmark-gfm #277)."""
    shown = (f"`{part}`" if code and r"\|" not in part else _escaped(part, special) for code, part in parts(text))
    return "".join(shown)


def _escaped(text: str, special: re.Pattern[str]) -> str:
    return special.sub(r"\\\g<0>", ENTITY.sub("&amp;", text)).replace("<", "&lt;")
