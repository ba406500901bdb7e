"""The page: everything in it, everything escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import digests, files
from gradlab.study import formatting, report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC"
)


class Page(HTMLParser):
    """Tags that were opened and not closed, and the text of each table cell, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")
        if tag == "img":
            self.images.append(given)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.cells and {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "quick"
    for name in ("table10", "table2"):
        (out / name).mkdir(parents=True)
    main = pd.DataFrame(
        {
            "method": ["<script>alert(1)</script>", "Baseline"],
            "bpp": [0.5273, 0.48],
            "bpp_se": [0.0123, np.nan],
            "bpp_paper": [0.5, np.nan],
            "iterations": [4000, 4000],
        }
    )
    files.write_csv(out / "table2" / "table2.csv", main)
    files.write_csv(out / "table2" / "a_more.csv", pd.DataFrame({"x": range(1000)}))
    verdicts = [("a < b", "Table 2", "yes", "1 & 2"), ("c", "Section 5", "no", ""), ("d", "A.9", "undecided", "n")]
    frame = pd.DataFrame(verdicts, columns=["claim", "source", "holds", "evidence"])
    files.write_csv(out / "table2" / "verdicts.csv", frame)
    (out / "table2" / "picture.png").write_bytes(PNG)
    record = {
        "study": "table2",
        "description": "Title <i>.\n\nFirst\nparagraph.\n\nSecond.",
        "tables": ["table2", "a_more"],
        "commit": "c0ffee",
        "dirty": True,
        "wall_s": 200.0,
        "settings": {"steps": 4000},
        "assumed": {"crop": "<64>"},
        "device": "cpu",
        "seed": 0,
    }
    files.write_json(out / "table2" / "provenance.json", digests.sealed(record))
    files.write_csv(out / "table10" / "table10.csv", pd.DataFrame({"x": [1]}))
    (out / "runs").mkdir()
    return out


def test_the_page(folder: Path) -> None:
    path = report.build(folder)
    assert path == folder / "report.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert not page.open  # well formed
    assert page.ids == ["verdicts", "ledger", "table2", "table10"]  # natural order, runs/ left out
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "<script" not in text and "&lt;script&gt;" in text and "Title &lt;i&gt;." in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "@import" not in text  # self-contained
    assert 'name="viewport"' in text and "@media print" in text
    cells = [cell.strip() for cell in page.cells]
    row = cells.index("<script>alert(1)</script>")
    assert cells[row : row + 5] == ["<script>alert(1)</script>", "0.527 \u00b1 0.012", "0.5000", "+5.5 %", "4000"]
    assert cells[row + 5 : row + 10] == ["Baseline", "0.4800", "", "", "4000"]
    assert page.images == [
        {
            "src": "data:image/png;base64," + base64.b64encode(PNG).decode(),
            "width": "4",
            "alt": "Figure picture of study table2",
        }
    ]
    for words in (
        "c0ffee with changes",
        "3 min 20 s",
        "&lt;64&gt;",
        "<p>First paragraph.</p>",
        "first 400 of 1000 rows",
    ):
        assert words in text
    assert "Of 3 claims: 1 hold here, 1 do not hold here, 1 cannot be decided" in text
    for word in ("holds", "not here", "undecided"):
        assert len(re.findall(rf"</span> {word}</span>", text)) == 2  # at the top and with the study
    assert "verdicts: 3 rows" not in text  # shown as verdicts, not as one more table
    assert text.count("Unfinished:") == 1  # table10 has no provenance


def test_same_input_same_page(folder: Path) -> None:
    assert report.build(folder).read_bytes() == report.build(folder).read_bytes()


def test_one_study_alone(folder: Path) -> None:
    text = report.build(folder / "table2").read_text("utf-8")
    assert Page(text).ids == ["verdicts", "table2"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"no results in .*: give an output folder of 'gradlab run'"):
        report.build(tmp_path)
    with pytest.raises(GradlabError, match="no such folder"):
        report.build(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table2.csv", b"a\n1", r"table2\.csv is truncated"),
        ("verdicts.csv", b"claim\nx\n", r"verdicts\.csv lacks one of the columns"),
        ("provenance.json", b"{", r"provenance\.json is not JSON"),
        ("picture.png", b"GIF", r"picture\.png is not a PNG image"),
    ],
)
def test_damaged_files(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / "table2" / name).write_bytes(content)
    with pytest.raises(GradlabError, match=message):
        report.build(folder)


def test_odd_provenance_is_shown_without_falling_over(folder: Path) -> None:
    path = folder / "table2" / "provenance.json"
    record = {"study": 1, "seed": [], "wall_s": "long", "tables": 3, "settings": [1], "description": None}
    files.write_json(path, digests.sealed(record))
    assert "Where this comes from" in report.build(folder).read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "yes"),
        pytest.param(np.bool_(False), "no", id="numpy False"),
        (0.0, "0"),
        (-0.000012345, "-1.234e-05"),
        (0.00012346, "0.0001235"),
        (12.3456, "12.35"),
        (4000.0, "4000"),
        (12345.6, "12346"),
        pytest.param(np.int64(5), "5", id="numpy 5"),
        (1.5e12, "1.500e+12"),
        (float("-inf"), "-inf"),
        ("x", "x"),
    ],
)
def test_text_of_a_cell(value: object, text: str) -> None:
    assert formatting.text(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.5273, 0.0123, "0.527 \u00b1 0.012"),
        (1234.5, 67.0, "1234 \u00b1 67"),
        (33.28, 1.5, "33.3 \u00b1 1.5"),
        (0.5, 0.0, "0.5000"),
        (0.5, float("nan"), "0.5000"),
        (1e-9, 2e-10, "1e-09 \u00b1 2e-10"),
    ],
)
def test_value_with_error(value: float, error: float, text: str) -> None:
    assert formatting.with_error(value, error) == text


def test_columns_merge_only_what_belongs_together() -> None:
    frame = pd.DataFrame({"lone_se": [1.0], "x_paper": [2.0], "y": [1.0], "y_paper": [0.0]})
    found = formatting.columns(frame)
    assert [column.name for column in found] == ["lone_se", "x_paper", "y"]
    assert found[2].paper == ["0"] and found[2].difference == [""]  # no percentage of nothing
