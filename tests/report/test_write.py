"""The four report files agree, are self-contained, and are written for a sweep in any state."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from made_sweeps import Maker
from markdown_it import MarkdownIt

from minimind.report.blocks import Bullets, Code, Heading, Link, Paragraph, Picture, Table
from minimind.report.html import to_html
from minimind.report.markdown import to_markdown
from minimind.report.picture import styles_of
from minimind.report.terminal import print_report
from minimind.report.write import write_report

Make = Callable[..., Path]
FILES = ("report.md", "report.json", "report.png", "report.html")


class Page(HTMLParser):
    """The text of all cells, and every URL that a browser would load or link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.loaded += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]
        if "href" in values:
            (self.linked if tag == "a" else self.loaded).append(values["href"])
        if tag in ("td", "th"):
            self.cells.append("")
            self.in_cell = True
        assert tag not in ("script", "iframe", "object", "embed")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_four_files(two_arms: Make, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"metrics": {"moe/max_load": float("inf")}, "settings": {"model.norm": "layer"}, "loss": 2.151}
    folder = two_arms(sweep={"claim": "It does | <not>.", "columns": ["moe/max_load"]}, **odd)
    report = write_report(folder)
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    found = Page(page)
    (picture,) = found.loaded
    assert picture.startswith("data:image/png;base64,")
    assert base64.b64decode(picture.partition(",")[2]) == (folder / "report.png").read_bytes()
    assert not re.search(r"https?:|@import|url\(", page)
    assert {(folder / link).resolve() for link in found.linked} == {run.path for run in report.runs}
    rows = [line for line in markdown.splitlines() if line.startswith("|") and "---" not in line]
    cells = [re.sub(r"`|\[(.*)\]\(.*\)|\\", r"\1", cell.strip()) for row in rows for cell in row[1:-1].split(" | ")]
    assert [cell for cell in cells if "runs/" not in cell] == found.cells
    content = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert content["arms"][1]["difference"]["mean"] == report.arms[1].difference.mean
    assert content["arms"][1]["verdict"]["words"] in markdown
    assert 1200 <= matplotlib.image.imread(folder / "report.png").shape[1] <= 1600
    monkeypatch.setenv("COLUMNS", "200")
    print_report(report)
    assert content["arms"][1]["verdict"]["words"] in capsys.readouterr().out


def test_a_sweep_without_finished_runs(maker: Maker) -> None:
    maker.add("rms", 1, maker.root / "runs" / "rms-1")
    maker.run("layer", 1, 2.0, state="preempted", settings={"model.norm": "layer"})
    folder = maker.sweep("rms")
    print_report(write_report(folder))
    assert "No answer yet: none of 2 runs has finished." in (folder / "report.md").read_text()
    assert not (folder / "report.png").exists()
    assert not Page((folder / "report.html").read_text()).loaded


def test_a_report_is_updated_when_more_runs_have_finished(two_arms: Make) -> None:
    folder = two_arms(state="failed", settings={"model.norm": "layer"}, loss=2.1)
    assert "no verdict" in write_report(folder).arms[1].verdict.words
    run = folder.parent.parent / "runs" / "layer-2"
    (run / "summary.json").write_text('{"val/loss": 2.15}')
    (run / "status.json").write_text((run / "status.json").read_text().replace('"failed"', '"finished"'))
    assert "worse" in write_report(folder).arms[1].verdict.words


@pytest.mark.parametrize(
    "names", [[f"arm {i}" for i in range(16)], ["1e-3", "3e-3", "1e-2"], ["0", "0.1", "0.2"], ["1", "inf", "nan"]]
)
def test_pictures_of_many_arms_and_of_values_of_one_setting(maker: Maker, names: list[str]) -> None:
    for number, name in enumerate(names):
        for seed in (1, 2, 3):
            maker.run(name, seed, 2.0 + number / 100 + seed**2 / 1000, settings={"model.norm": name})
    maker.run("lost", 1, 2.0, settings={"model.norm": "lost"}, state="failed") if len(names) > 3 else None
    folder = maker.sweep(names[0])
    write_report(folder)
    assert (folder / "report.png").stat().st_size > 50_000


@pytest.mark.parametrize("names", [[str(number) for number in range(1, 17)], [f"arm {number}" for number in range(19)]])
def test_every_arm_looks_different(names: list[str]) -> None:
    styles = styles_of(names, names[3])
    assert list(styles) == names
    assert len({(str(style["color"]), style.get("ls")) for style in styles.values()}) == len(names)


SENTENCES = [
    "a_b and _c_",
    "x * y",
    "1 < 2 & 3 > 2",
    "[a](b)",
    "`code <|im_start|>` and | more",
    "back\\slash",
    "5 ± 1",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_text_survives_rendering(text: str, tmp_path: Path) -> None:
    """Parsing the rendered page gives back the text."""
    blocks = [Heading(text), Paragraph(text, lead="Lead."), Bullets([text]), Code(text),
              Table(("name", text), [(Link(text.replace("`", ""), "a b/c"), text)])]  # fmt: skip
    plain = text.replace("`", "")
    assert plain in Page(to_html(blocks, text, tmp_path)).cells
    page = Page(MarkdownIt().enable("table").render(to_markdown(blocks)))
    assert page.cells == ["name", plain, plain, plain]
    assert page.linked == ["a%20b/c"]


def test_pictures_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"bytes")
    page: Any = Page(to_html([Picture("p.png", 'a "b"')], "t", tmp_path))
    assert page.loaded == ["data:image/png;base64," + base64.b64encode(b"bytes").decode()]
