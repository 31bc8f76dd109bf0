"""Renders blocks as one self-contained HTML file with embedded pictures."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

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
from minimind.utils.terminal import one_line, visible

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 1200px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } .number { text-align: right; white-space: nowrap; }
code { font: 0.9em ui-monospace, monospace; background: #f1f1f1; padding: 0 0.2em; }
pre { background: #f1f1f1; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; } a { color: #0b57a4; }
"""


def to_html(blocks: Iterable[Block], title: str, folder: Path) -> str:
    """`folder`: the one that picture paths are relative to."""
    body = "\n".join(_block(block, folder) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(one_line(title))}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Paragraph(text, lead):
            return f"<p>{f'<strong>{_text(lead)}</strong> ' if lead else ''}{_text(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(visible(text))}</pre>"
        case Picture(path, description):
            data = base64.b64encode((folder / path).read_bytes()).decode()
            return f'<img src="data:image/png;base64,{data}" alt="{escape(one_line(description))}">'
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    def row(tag: str, cells: Iterable[Cell]) -> str:
        classes = ("" if column in table.text_columns else ' class="number"' for column in range(len(table.header)))
        return "<tr>" + "".join(f"<{tag}{css}>{_cell(cell)}</{tag}>" for css, cell in zip(classes, cells, strict=True))

    rows = "\n".join(row("td", cells) for cells in table.rows)
    return (
        f'<div class="scroll"><table>\n<thead>{row("th", table.header)}</thead>\n<tbody>{rows}</tbody>\n</table></div>'
    )


def _cell(cell: Cell) -> str:
    return f'<a href="{escape(address(cell.target))}">{_text(cell.text)}</a>' if isinstance(cell, Link) else _text(cell)


def _text(text: str) -> str:
    return "".join(f"<code>{escape(part)}</code>" if code else escape(part) for code, part in parts(text))
