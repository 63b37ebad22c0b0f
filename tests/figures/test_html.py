from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from conftest import PATIENCE
from cutaway.figures import Picture, Section, Table, figure_png, figure_svg, look, page
from cutaway.figures.curves import Series, curves


def chart(name: str = "a <name> & more"):
    x = np.arange(30)
    return curves([Series(name, x, x + 1.0, low=x, high=x + 2.0)], x_label="step", y_label="loss")


ROWS = [
    {"word": "</table><script>alert(1)</script>", "activation": 2.5, "note": None},
    {"word": "beta", "activation": float("nan"), "note": True},
    {"word": "alpha", "activation": 1234567.0, "note": False},
    *({"word": f"word {i}", "activation": float(-i), "note": None} for i in range(9)),
]


@pytest.fixture(scope="module")
def html() -> str:
    return page(
        "Title <&> 你好",
        [
            Section(
                "First & foremost",
                ["A **bold** claim with `code <i>`.", Markup("<em>kept</em>")],
                [Picture(chart(), 'One "quoted" <caption>'), Picture(chart(), "Same again")],
            ),
            Section("Table", "one paragraph", table=Table(ROWS, caption="words")),
            Section("Image", pictures=[Picture(figure_png(chart(), "described"), "as PNG")]),
            Section("Commands", commands="cutaway train x && echo '<done>'"),
        ],
        subtitle="under <it>",
    )


class Reader(HTMLParser):
    """Collects ids, references, attributes that fetch, and checks that elements nest."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "link", "input", "img", "br"}:
            self.stack.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_a_page_nests_and_its_ids_are_unique_over_all_figures(html):
    reader = Reader(html)
    assert reader.stack == []
    assert [name for name, count in Counter(reader.ids).items() if count > 1] == []
    referenced = set(re.findall(r"url\(#([^)]+)\)", html))
    referenced |= {value[1:] for value in reader.fetched if value.startswith("#")}
    assert referenced
    assert referenced <= set(reader.ids)


def test_a_page_fetches_nothing(html):
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert all(value.startswith(("#", "data:")) for value in Reader(html).fetched)
    assert "default-src 'none'" in html


def test_text_is_escaped_and_light_markup_works(html):
    assert "<script>alert" not in html
    assert "&lt;/table&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<strong>bold</strong>" in html
    assert "<code>code &lt;i&gt;</code>" in html
    assert "<em>kept</em>" in html
    assert "Title &lt;&amp;&gt; 你好" in html
    assert "a &lt;name&gt; &amp; more" in html
    assert "&lt;done&gt;" in html
    assert 'aria-label="One &#34;quoted&#34; &lt;caption&gt;"' in html


def test_cells_sort_by_exact_values_and_nan_by_none(html):
    values = re.findall(r'data-value="([^"]*)"', html)
    assert [float(value) for value in values] == [2.5, 1234567.0, *(-float(i) for i in range(9))]
    assert all(np.isfinite(float(value)) for value in values)


def test_the_same_page_gives_the_same_bytes():
    sections = [Section("S", pictures=[Picture(chart(), "c")])]
    again = [Section("S", pictures=[Picture(chart(), "c")])]
    assert page("T", sections) == page("T", again)


def test_a_figure_follows_the_dark_scheme():
    svg = figure_svg(chart())
    named = set(re.findall(r"var\(--figure-([0-9a-f]{6}), #\1\)", svg))
    assert {look.INK[1:], look.PAPER[1:], look.PALETTE[0][1:]} <= named
    text = page("T", [Section("S", pictures=[Picture(chart(), "c")])])
    for name in named:
        assert f"--figure-{name}:#" in text


def test_figures_with_different_content_have_different_ids():
    first, second = (set(re.findall(r' id="([^"]+)"', figure_svg(chart(n)))) for n in "ab")
    assert first
    assert not first & second


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium here to open the page with")


def test_a_browser_sorts_and_filters_the_table(html, tmp_path):
    chromium = browser()
    drive = """<script>
    const heads = document.querySelectorAll("th button");
    const column = (n) => Array.from(document.querySelectorAll("tbody tr"))
      .filter((row) => !row.hidden).map((row) => row.cells[n].textContent);
    const seen = {};
    heads[1].click(); seen.down = column(0);
    heads[1].click(); seen.up = column(0);
    heads[0].click(); seen.words = column(0);
    const box = document.querySelector("input");
    box.value = "WORD"; box.dispatchEvent(new Event("input"));
    seen.filtered = column(0);
    document.title = JSON.stringify(seen);
    </script></body>"""
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", drive), "utf-8")
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=1000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    import html as entities
    import json

    seen = json.loads(entities.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    script = "</table><script>alert(1)</script>"
    numbered = [f"word {i}" for i in range(9)]
    assert seen["down"] == ["alpha", script, *numbered, "beta"]  # NaN last either way
    assert seen["up"] == [*numbered[::-1], script, "alpha", "beta"]
    assert sorted(seen["words"]) == sorted(seen["down"])
    assert (
        seen["words"].index("alpha") < seen["words"].index("beta") < seen["words"].index("word 0")
    )
    assert seen["filtered"] == numbered
