from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import PATIENCE
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.features.page import features_page, write_page
from cutaway.features.reader import read_features
from cutaway.features.table import Features
from cutaway.nets.reference import open_model

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
FEATURES = 160
EVIL = "</script><b id='broken'>"


class Words:
    """A tokenizer's face with tokens that try to leave the page's data."""

    def token(self, id: int) -> str:
        return {3: EVIL, 4: " the\n", 5: "Zebra"}.get(id, f" w{id}")


@pytest.fixture(scope="module")
def features(gpt2_run: Path) -> Features:
    model = open_model(gpt2_run, device="cpu")
    made = build(DictionaryShape("topk", model.width, FEATURES, k=8), 0)
    with torch.no_grad():
        made.encoder_bias[-5:] = -1e4
    made.metadata = {"site": "residual.0", "reference": model.reference.to_json()}
    ids = torch.randint(0, 20, (30, 16), generator=torch.Generator().manual_seed(0))
    return read_features(made, model, [(ids, None, None)], minimum=1, tokenizer=Words())


@pytest.fixture(scope="module")
def page(features: Features) -> str:
    return features_page(features, examples=3)


def browse(page: str, folder: Path, script: str = "", address: str = "", *flags: str) -> str:
    """The page's DOM after a browser ran it, and a script of the test's after it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    file = folder / "page.html"
    file.write_text(page.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    headless = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    command = [CHROMIUM, *headless, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom"]
    done = subprocess.run(
        [*command, f"{file.as_uri()}{address}"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(dom: str) -> dict:
    """What the test's script left in the body's data-found."""
    return json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))


def test_the_data_holds_every_feature_with_its_tokens_and_examples(page, features):
    text = re.search(r'id="features-data">(.*?)</script>', page, re.S)[1]
    data = json.loads(text)
    assert len(data["features"]) == FEATURES
    index = int(np.argmax(features.density))
    one, row = data["features"][index], features.row(index)
    assert one["fires"] == row["fires"]
    assert [data["words"][id] for id, *_ in one["tokens"]] == [t["token"] for t in row["tokens"]]
    assert [data["words"][id] for id, _ in one["promoted"]] == [t["token"] for t in row["promoted"]]
    assert len(one["examples"]) == 3
    for shown, example in zip(one["examples"], features.examples_of(index)):
        value, document, position, centre, ids, levels = shown
        assert (document, position, centre) == (
            example["document"],
            example["position"],
            example["centre"],
        )
        assert [data["words"][id] for id in ids] == example["tokens"]
        shares = np.array([int(level, 36) for level in levels]) / 35
        assert shares * row["max"] == pytest.approx(example["activations"], abs=row["max"] / 34)
        assert [share > 0 for share in shares] == [a > 0 for a in example["activations"]]
        assert value == pytest.approx(example["activation"], rel=1e-3)
    first, *counts = one["bins"]
    assert row["histogram"][first : first + len(counts)] == counts
    assert sum(counts) == row["fires"]
    assert EVIL in data["words"]


def test_nothing_on_the_page_points_outside_it(page):
    class References(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href", "action")]

    reader = References()
    reader.feed(page)
    outside = [one for one in reader.found if not one.startswith(("#", "data:"))]
    assert outside == []
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", page)


def test_a_token_cannot_break_out_of_the_page(page):
    assert EVIL not in page
    assert page.count("</script>") == 2  # the data's and the page's own


def test_dead_features_are_listed(page, features):
    assert len(features.dead) >= 5
    for index in features.dead:
        assert f'<a href="#feature={index}">{index}</a>' in page


def test_a_browser_shows_rows_searches_sorts_and_follows_the_keyboard(page, features, tmp_path):
    script = """
    const found = {};
    const rows = () => Array.from(document.querySelectorAll(".list tbody tr"));
    const numbers = () => rows().map((row) => Number(row.dataset.feature));
    const input = document.querySelector(".filter input");
    const search = (text) => { input.value = text; input.dispatchEvent(new Event("input")); };
    const head = (name) => document.querySelector(`th[data-key=${name}] button`);
    const press = (key) => document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    const card = () => document.querySelector(".card h3").textContent;
    found.first = rows().length;
    found.byDensity = numbers();
    document.querySelector(".more").click();
    found.all = rows().length;
    search("zebra");
    found.zebra = numbers();
    found.count = document.querySelector(".filter span").textContent;
    search("#7");
    found.seven = numbers();
    search("no such token");
    found.none = rows().length;
    found.nothing = document.querySelector(".list .none").textContent;
    found.missing = document.querySelector(".list .none").hidden;
    search("");
    found.there = document.querySelector(".list .none").hidden;
    head("max").click();
    found.byMax = numbers();
    head("max").click();
    found.upwards = numbers();
    input.focus();
    press("ArrowDown");
    press("ArrowDown");
    found.walked = [card(), document.activeElement.dataset.feature];
    head("max").click();
    rows()[5].click();
    found.clicked = card();
    found.examples = document.querySelectorAll(".card .examples li").length;
    found.strongest = getComputedStyle(document.querySelector(".card .centre.active")).backgroundColor;
    found.bars = document.querySelectorAll(".card .histogram rect").length;
    found.broken = document.getElementById("broken") !== null;
    found.requests = performance.getEntriesByType("resource").length;
    document.body.dataset.found = JSON.stringify(found);
    """
    found = said(browse(page, tmp_path, script))
    density, largest = features.density, features.table["max"].to_numpy()
    by_density = sorted(range(FEATURES), key=lambda index: (-float(f"{density[index]:.4g}"), index))
    assert found["first"] == 100  # the rest is made when it is asked for
    assert found["all"] == FEATURES
    assert found["byDensity"] == by_density[:100]
    named = [
        index
        for index in range(FEATURES)
        if any(
            "Zebra" in one["token"]
            for one in features.row(index)["tokens"] + features.row(index)["promoted"]
        )
    ]
    assert 0 < len(named) < FEATURES
    assert sorted(found["zebra"]) == named
    assert found["count"] == f"{len(named)} of {FEATURES} features"
    assert found["seven"] == [7]
    assert found["none"] == 0
    assert (found["missing"], found["there"]) == (False, True)
    assert found["nothing"] == "No feature has “no such token” among its tokens."
    assert largest[found["byMax"][0]] == largest.max()
    assert largest[found["upwards"][0]] == 0
    assert found["walked"] == [f"Feature {found['upwards'][1]}", str(found["upwards"][1])]
    clicked = found["byMax"][5]
    assert found["clicked"] == f"Feature {clicked}"
    assert found["examples"] == min(3, len(features.examples_of(clicked)))
    assert found["strongest"] not in ("", "rgba(0, 0, 0, 0)")
    assert found["bars"] > 0
    assert not found["broken"]
    assert found["requests"] == 0


def test_an_address_names_a_search_and_a_feature(page, features, tmp_path):
    dom = browse(page, tmp_path, address="#search=zebra&feature=9")
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    assert 0 < body.count("<tr") < FEATURES
    assert "<h3>Feature 9</h3>" in dom
    assert "<h3>Feature 7</h3>" in browse(page, tmp_path, address="#7")


def test_labels_of_a_histogram_stand_apart(page, tmp_path):
    """Of 3 to 13 bars, as laid out by the browser; some are named at every number."""
    data = re.search(r'id="features-data">(.*?)</script>', page, re.S)
    content = json.loads(data[1])
    for number, one in enumerate(content["features"][:11]):
        one |= {"bins": [number, *range(1, number + 4)], "fires": 9, "density": 0.1}
    made = page.replace(data[1], json.dumps(content).replace("<", "\\u003c"))
    script = """
    const found = Array.from({ length: 11 }, (_, index) => {
      const input = document.querySelector(".filter input");
      input.value = `#${index}`;
      input.dispatchEvent(new Event("input"));
      document.querySelector(".list tbody tr").click();
      return Array.from(document.querySelectorAll(".card .histogram text"), (text) => {
        const box = text.getBoundingClientRect();
        return [box.left, box.right];
      });
    });
    document.body.dataset.found = JSON.stringify({ found });
    """
    for number, boxes in enumerate(said(browse(made, tmp_path, script))["found"]):
        assert len(boxes) >= (2 if number < 4 else 4)
        assert all(one[1] < other[0] for one, other in pairwise(boxes)), boxes


def test_nothing_is_said_of_dead_features_where_there_are_none(gpt2_run):
    model = open_model(gpt2_run, device="cpu")
    made = build(DictionaryShape("topk", model.width, 4, k=4), 0)
    with torch.no_grad():
        made.encoder_bias.fill_(1e4)
    made.metadata = {"site": "embed"}
    found = read_features(made, model, [(torch.ones(2, 8, dtype=torch.int64), None, None)])
    assert not found.dead
    assert "Dead features" not in features_page(found)


def test_a_page_without_a_live_feature_still_opens(gpt2_run, tmp_path):
    model = open_model(gpt2_run, device="cpu")
    made = build(DictionaryShape("topk", model.width, 4, k=2), 0)
    with torch.no_grad():
        made.encoder_bias.fill_(-1e4)
    made.metadata = {"site": "embed"}
    found = read_features(made, model, [(torch.ones(2, 8, dtype=torch.int64), None, None)])
    path = write_page(found, tmp_path / "out")
    text = path.read_text("utf-8")
    assert "Dead features: 4" in text
    dom = browse(text, tmp_path)
    assert dom.count('class="dead"') == 4
    assert "<h3>Feature 0</h3>" in dom
