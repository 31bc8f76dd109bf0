"""Blocks → Markdown, as GitHub reads it."""

import re
from collections.abc import Iterable
from urllib.parse import quote

from minimind.report.blocks import Block, Bullets, Cell, Code, Heading, Link, Paragraph, Picture, Table

SPECIAL = re.compile(r"([\\*]|(?<!\w)_|_(?!\w)|\](?=[\[(]))")  # what would be markup where it stands


def to_markdown(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_text(text)}"
        case Paragraph(text, lead):
            return (f"**{_text(lead)}** " * bool(lead) + _text(text)).strip()
        case Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Picture(path, description):
            return f"![{_text(description)}]({quote(path)})"
        case Table(header, rows, wordy):
            ruler = ["---" if column in wordy else "---:" for column in range(len(header))]
            return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, ruler, *rows))


def _cell(cell: Cell) -> str:
    shown = f"[{_text(cell.text)}]({quote(cell.target)})" if isinstance(cell, Link) else _text(cell)
    return shown.replace("|", "\\|").replace("\n", " ")


def _text(text: str) -> str:
    """Code between backticks stays as it is."""
    parts = text.split("`")
    return "`".join(part if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text).replace("<", "&lt;")
