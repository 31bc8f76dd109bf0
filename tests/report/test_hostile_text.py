"""Untrusted names, questions and reasons stay plain text in report.md, report.html and the pictures."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.figure
import matplotlib.text
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from made_sweeps import Maker
from markdown_it import MarkdownIt
from markdown_it.token import Token

from minimind.report.blocks import Block, Bullets, Code, Heading, Link, Paragraph, Picture, Table, address, parts
from minimind.report.html import to_html
from minimind.report.markdown import to_markdown
from minimind.report.plotting import plot_loss
from minimind.report.write import write_report
from minimind.runs.metrics_file import append_rows
from minimind.utils.terminal import one_line, visible

EVIL = "https://e.vil"
PIECES = [
    *"`<>|\\[]()!*_#~$&:=-+. \t\n\r\x1b\u202ea1", "``", "```", "````\n", "~~~\n", "\n\n", "    ", "<b>", "</p>", "<!--",
    "-->", "<script>alert(1)</script>", "<?", "<![CDATA[", f"<{EVIL}>", f"]({EVIL})", f"[a]: {EVIL}\n", "[a]", "[a][a]",
    f"![a]({EVIL})", "\n> ", "\n- ", "\n1. ", "\n# ", "\n===\n", "\n---\n", "| --- |\n", "\\|", "`\\|", "&lt;", "&#60;",
    "javascript:alert(1)", "//e.vil", '" onclick="alert(1)', "' x='",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), min_size=1, max_size=12).map("".join)
addresses = hostile.filter(lambda text: not re.search("[\ud800-\udfff]", text))
GITHUB = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def document(text: str, target: str) -> list[Block]:
    """`text` in every kind of block, everywhere that a report may have untrusted text."""
    cells = [Link(text, target), text, f"`{text}`", f"{text} (`{text}`)"]
    return [
        Heading(text, 1), Paragraph(text), Paragraph(text, lead="Lead."), Paragraph(f"On `{text}`, {text}: `x`."),
        Bullets([text, f"`{text}` lost", text]), Code(text), Picture("p.png", text),
        Table(("arm", text, "a", "b"), [cells, cells]), Paragraph(text),
    ]  # fmt: skip


def tokens_of(blocks: list[Block]) -> list[Token]:
    return GITHUB.parse(to_markdown(blocks))


def inside(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from inside(token.children or [])


@settings(max_examples=150, deadline=None)
@given(text=hostile, target=addresses)
@example(text="`<b>", target="x")
@example(text="``<b>``", target="x")
@example(text="\n> \\|", target="x")
@example(text="`a\\|<b>`", target="x")
@example(text="a\n\n<b>c</b>", target="x")
@example(text="```\n<b>\n", target="//e.vil/x")
@example(text="[a]: https://e.vil\n\n[a]", target="javascript:alert(1)")
def test_markdown_has_no_html_and_no_foreign_links(text: str, target: str) -> None:
    assume(one_line(text).strip())
    tokens = tokens_of(document(text, target))
    found = list(inside(tokens))
    assert [token.type for token in tokens] == [token.type for token in tokens_of(document("x", "x"))]
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "code_inline", "link_open", "link_close", "image", "strong_open", "strong_close"}
    assert sum(token.type == "strong_open" for token in found) == 1
    assert [token.attrs["href"] for token in found if token.type == "link_open"] == [address(target)] * 2
    assert [token.attrs["src"] for token in found if token.type == "image"] == ["p.png"]
    assert [token.content for token in found if token.type == "fence"] == [f"{visible(text)}\n"]
    assert "\x1b" not in to_markdown(document(text, target))


@settings(max_examples=100, deadline=None)
@given(text=hostile)
@example(text="&lt; &#60; `&amp;` 1. \\` [0.1, 0.2] a_b _c_ ~d~ $e$")
def test_rendered_markdown_shows_the_text(text: str) -> None:
    meant = "".join(part for _, part in parts(text))
    assume(meant.strip())
    for block in (Paragraph(text), Bullets([text]), Table(("a",), [(text,)]), Table(("a",), [(Link(text, "x"),)])):
        seen = [
            token.content
            for token in inside(tokens_of([block]))
            if token.type in ("text", "text_special", "code_inline")
        ]
        assert re.sub(r"\s", "", "".join(seen).removeprefix("a" * isinstance(block, Table))) == re.sub(r"\s", "", meant)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str | None, ...]]] = []
        self.addresses: list[str | None] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, tuple(name for name, _ in attributes))] if tag != "code" else []
        self.addresses += [value for name, value in attributes if name == "href"]

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    unknown_decl = handle_pi = handle_comment


@settings(max_examples=100, deadline=None)
@given(text=hostile, target=addresses)
def test_html_has_the_same_tags_whatever_the_text(
    text: str, target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "p.png").touch()
    page = to_html(document(text, target), text, folder)
    tags = Tags(page)
    assert tags.found == Tags(to_html(document("x", "x"), "x", folder)).found
    assert tags.addresses == [address(target)] * 2
    assert not re.match(r"[a-z]+:|//", address(target), re.I)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


ARM = "a$b$_{^\x1b[2J\ud800<b>`|\n[x](https://e.vil)"


def test_a_report_with_hostile_names(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts_drawn(monkeypatch)
    for number, arm in enumerate(("plain", "$_{$", ARM)):
        for seed in (1, 2, 3):
            maker.run(f"arm{number}", seed, 2.0 + (seed + number) / 100, settings={"model.norm": arm})
    folder = maker.sweep("arm0", question=ARM, claim=ARM)
    content = (folder / "sweep.json").read_text()
    content = content.replace('"arm1"', json.dumps("$_{$")).replace('"arm2"', json.dumps(ARM))
    (folder / "sweep.json").write_text(content)
    write_report(folder)
    markdown = (folder / "report.md").read_text()
    assert "\x1b" not in markdown
    assert not {"html_inline", "html_block"} & {token.type for token in inside(GITHUB.parse(markdown))}
    assert {"$_{$", one_line(ARM)} <= {text.strip() for text in drawn}
    page = (folder / "report.html").read_text()
    assert "<b>" not in page
    assert r"\x1b[2J" in page


def texts_drawn(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Collects all text in saved figures, and asserts that none of it is parsed as math."""
    drawn: set[str] = set()
    save = matplotlib.figure.Figure.savefig

    def savefig(figure: matplotlib.figure.Figure, *arguments: object, **options: object) -> None:
        save(figure, *arguments, **options)
        for text in figure.findobj(matplotlib.text.Text):
            assert text._preprocess_math(text.get_text())[1] is False
            drawn.add(text.get_text())

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return drawn


def test_the_title_of_a_loss_plot_is_literal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts_drawn(monkeypatch)
    append_rows(tmp_path / "metrics.jsonl", [{"step": 1, "tokens": 1, "train/loss": 2.0}])
    for name in ("$_{$", "\x1b[2J\ud800"):
        plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", name)
        assert visible(name) in drawn


def test_harmless_text_is_not_escaped() -> None:
    """report.md should be readable as plain text, too."""
    sentence = "On validation loss, compared with `rms`: `layer_2` is worse by 0.05 [0.047, 0.053] (2 of 3 seeds)."
    assert to_markdown([Paragraph(sentence)]) == f"{sentence}\n"
    assert to_markdown([Table(("arm", "x"), [("`a|b`", "-0.5")])]).endswith("| `a\\|b` | -0.5 |\n")


def test_a_cell_end_is_unambiguous_to_all_parsers() -> None:
    r"""In `a\\\\|b` GitHub sees an escaped pipe, micromark an escaped backslash and the end of the cell."""
    row = to_markdown([Table(("a",), [(r"`a\|<b>`",)])]).splitlines()[-1]
    assert re.findall(r"(\\*)\|", row[1:-1]) == ["\\" * 3]
    assert "<" not in row
