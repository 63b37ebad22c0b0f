"""The page of a text, opened in a real browser."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.nets.model import ModelReference
from cutaway.probes.states.probe import ProbeAbout
from cutaway.probes.view.page import pieces, view_data, write_view
from cutaway.probes.view.reading import TextReading
from cutaway.text.tokenizers import Tokenizer
from features.test_page import browse, said

EVIL = "</script><b id='broken'>"
TEXT = f"The old king sees the river.\n\n\tAnd the cat, the dog {EVIL} 你好 in the end\n"
PRIOR = 0.04
LAYERS = 4


@pytest.fixture(scope="module")
def tokenizer(gpt2_run: Path) -> Tokenizer:
    return Tokenizer.load(gpt2_run / "tokenizer")


def reading_of(tokenizer: Tokenizer, text: str = TEXT, *, task: str = "next", classes: int = 2):
    """Made-up probabilities of a text: the first layer knows nothing, the last nearly all."""
    ids = torch.tensor(tokenizer.encode(text))
    the = tokenizer.encode(" the")[0]
    count = len(ids)
    reference = ModelReference("run", "/somewhere/tiny", None, 7, "a" * 64, "b" * 64, LAYERS, 8)
    names = ("other", "target") if classes == 2 else tuple("abcdefgh"[:classes])
    prior = (1 - PRIOR, PRIOR) if classes == 2 else (1 / classes,) * classes
    abouts = tuple(
        ProbeAbout(
            reference, f"residual.{layer}", "exact", task, names, prior, (1 / classes,) * classes,
            target=" the", target_id=the, context_length=128,
            scores={"balanced_accuracy": 0.5 + layer / 10, "low": 0.5, "high": 0.9 + layer / 50},
            data={"name": "docstrings"},
        )
        for layer in range(LAYERS)
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    labels = torch.cat([(ids == the).long()[1:], torch.tensor([-1])])
    if classes == 2:
        noise = torch.randn(LAYERS, count, generator=draw)
        odds = np.log(PRIOR / (1 - PRIOR)) + noise
        p = (odds + torch.arange(LAYERS)[:, None] * (labels.clamp(min=0) * 4 - 2)).sigmoid()
    else:
        p = torch.randn(LAYERS, count, classes, generator=draw).softmax(-1)
        labels = None
    own = torch.rand(count, generator=draw) if task == "next" else None
    return TextReading(
        ids, p, own, labels, (0,), torch.arange(count), 128, abouts, reference
    )  # fmt: skip


@pytest.fixture(scope="module")
def reading(tokenizer: Tokenizer) -> TextReading:
    """With one reading that is no number, at layer 2."""
    made = reading_of(tokenizer)
    made.probabilities[2, 5] = torch.nan
    made.own[6] = torch.nan
    return made


def html_of(reading: TextReading, tokenizer: Tokenizer, folder: Path, **more) -> str:
    summary = write_view(reading, tokenizer, folder / "view.html", **more)
    page = summary.path.read_text("utf-8")
    assert summary.bytes == len(page.encode())
    return page


@pytest.fixture(scope="module")
def page(reading: TextReading, tokenizer: Tokenizer, tmp_path_factory) -> str:
    return html_of(reading, tokenizer, tmp_path_factory.mktemp("view"), text="made up")


def data_of(page: str) -> dict:
    return json.loads(
        re.search(r'id="probabilities-data">(.*?)</script>', page, re.S)[1],
        parse_constant=lambda name: pytest.fail(f"{name} in the data"),
    )


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<i2")


# -- what is in it -------------------------------------------------------------------------------


def test_tokens_add_up_to_the_text(tokenizer):
    for text in (TEXT, "\\xe4 and \\xff spelled out", "é", "", "  two  spaces \n"):
        assert "".join(pieces(tokenizer, tokenizer.encode(text))) == text


def test_a_character_of_several_tokens_stands_at_its_last(tokenizer):
    ids = tokenizer.encode("你好")
    assert len(ids) == 6
    assert pieces(tokenizer, ids) == ["", "", "你", "", "", "好"]
    assert pieces(tokenizer, ids[:4]) == ["", "", "你", "\ufffd"]
    assert pieces(tokenizer, ids[1:3]) == ["", "\ufffd\ufffd"]
    assert pieces(tokenizer, tokenizer.encode("a\x00b\r\x7f")) == list("a␀b␍␡")


def test_probabilities_are_kept_to_three_digits_and_what_is_none_is_marked(reading, tokenizer):
    data = view_data(reading, tokenizer)
    steps = unpacked(data["values"]).reshape(LAYERS, -1)
    missing = steps == -(2**15)
    assert np.argwhere(missing).tolist() == [[2, 5]]
    assert data["missing"] == 1
    p = 1 / (1 + np.exp(-steps / data["steps"]))
    np.testing.assert_allclose(p[~missing], reading.probabilities.numpy()[~missing], rtol=3e-4)
    assert unpacked(data["own"])[6] == -(2**15)
    sure = replace(reading, probabilities=torch.tensor([[0.0, 1.0]]), tokens=reading.tokens[:2])
    assert unpacked(view_data(sure, tokenizer)["values"]).tolist() == [1 - 2**15, 2**15 - 1]


def test_data_hold_the_text_labels_scores_and_shares(page, reading):
    data = data_of(page)
    words = [word if isinstance(word, str) else word[0] for word in data["words"]]
    assert "".join(words[one] for one in data["tokens"]) == TEXT
    assert data["labels"] == reading.labels.tolist()
    assert data["classes"] == [{"name": "“ the”", "prior": PRIOR, "label": 1}]
    assert data["layers"][1] == {
        "name": "residual.1",
        "balanced_accuracy": 0.6,
        "low": 0.5,
        "high": 0.92,
        "validation_balanced_accuracy": None,
    }
    unscored = replace(reading.abouts[0], scores={"balanced_accuracy": float("nan")})
    assert "NaN" not in json.dumps(view_data_of(reading, unscored))


def view_data_of(reading, about):
    class Words:
        def token(self, id):
            return f" w{id}"

    abouts = (about, *reading.abouts[1:])
    return view_data(replace(reading, abouts=abouts), Words())


def test_nothing_points_outside_and_no_token_breaks_out(page):
    assert EVIL not in page
    assert page.count("</script>") == 2
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", page)


def test_the_page_says_what_was_read_and_how(page):
    for said_there in (
        "Is the next token “ the”?",
        "of made up, read by 4 probes (exact) of tiny",
        "trained on docstrings",
        "windows of 128 tokens",
        "1 token has a state that is not finite",
    ):
        assert said_there in page
    assert "overlap" not in page  # one window holds it all


def test_the_page_says_the_least_context_that_was_read(reading, tokenizer, tmp_path):
    context = torch.arange(len(reading.tokens)) % 16 + 9
    page = html_of(replace(reading, window=24, context=context, starts=(0, 5)), tokenizer, tmp_path)
    assert "windows of 24 tokens, each document by itself" in page
    least = int(context[5 + 24 :].min())
    assert f"at least {least} tokens before it" in page


def test_four_thousand_tokens_of_26_layers_stay_small(tokenizer, tmp_path):
    long = reading_of(tokenizer, TEXT * 80)
    count = 4000
    draw = torch.Generator().manual_seed(1)
    whole = replace(
        long,
        tokens=long.tokens[:count],
        probabilities=torch.rand(26, count, generator=draw),
        own=torch.rand(count, generator=draw),
        labels=long.labels[:count],
        context=long.context[:count],
        abouts=tuple(replace(long.abouts[0], site=f"residual.{n}") for n in range(26)),
    )
    assert len(whole.tokens) == count
    summary = write_view(whole, tokenizer, tmp_path / "big.html")
    assert summary.bytes < 1_000_000


# -- in a browser --------------------------------------------------------------------------------

DRIVE = """
const found = {};
const $ = (selector) => document.querySelector(selector);
const all = Array.from(document.querySelectorAll(".t"));
const press = (key, on = document.activeElement) =>
  on.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const levels = () => all.map((one) => one.className.match(/l\\d+|missing/)[0]);
const hits = () => all.flatMap((one, index) => (one.classList.contains("w") ? [index] : []));
const counts = () => ["tp", "fp", "fn", "tn"].map((one) => Number($(`.${one}`).textContent.replace(",", "")));
const card = () => $(".card").textContent.replace(/\\u00a0/g, " ");
const current = () => all.findIndex((one) => one.hasAttribute("aria-current"));
const set = (range, value) => {
  range.value = String(value); range.dispatchEvent(new Event("input"));
};
window.onerror = (message) => { document.body.dataset.found = JSON.stringify({ error: message }); };
try {
  %s
  found.requests = performance.getEntriesByType("resource").length;
  document.body.dataset.found = JSON.stringify(found);
} catch (error) { document.body.dataset.found = JSON.stringify({ error: String(error) }); }
"""


def driven(page: str, folder: Path, script: str, address: str = "", *flags: str) -> dict:
    found = said(browse(page, folder, DRIVE % script, address, *flags))
    assert "error" not in found, found
    assert found["requests"] == 0
    return found


def expected(reading: TextReading, layer: int, threshold: float = PRIOR):
    """Levels, disagreements and counts as the definitions say."""
    p = reading.probabilities[layer].double().numpy()
    odds = np.round(np.log(p / (1 - p)) * 2048) / 2048
    evidence = odds - np.log(PRIOR / (1 - PRIOR))
    # as JavaScript rounds: halves up
    level = np.clip(np.floor(np.nan_to_num(evidence) * 2 + 0.5), -10, 10) + 10
    names = ["missing" if np.isnan(one) else f"l{int(number)}" for one, number in zip(p, level)]
    label = reading.labels.numpy()
    above = odds >= np.log(threshold / (1 - threshold))
    known = (label >= 0) & ~np.isnan(p)
    wrong = known & (above != (label == 1))
    yes = label == 1
    counts = [
        int((known & one).sum()) for one in (above & yes, above & ~yes, ~above & yes, ~above & ~yes)
    ]
    return names, np.flatnonzero(wrong).tolist(), counts


def test_colours_counts_and_disagreements_follow_layer_and_threshold(page, reading, tmp_path):
    script = """
    found.text = all.map((one) => one.textContent).join("");
    found.start = [$(".layer output").textContent, levels(), hits(), counts()];
    found.score = $(".score").textContent.replace(/\\u00a0/g, " ");
    set($("#layer"), 0);
    found.first = [$(".layer output").textContent, levels(), hits(), counts()];
    set($("#layer"), 2);
    found.gap = [$(".layer output").textContent, levels(), hits(), counts()];
    found.rates = $(".rates").textContent;
    $("[data-centre=half]").click();
    found.half = [$(".scale output").textContent, hits(), counts()];
    $("[data-centre=prior]").click();
    set($("#threshold"), 2);
    found.high = [hits(), counts(), $(".scale output").textContent.replace(/\\u00a0/g, " ")];
    found.colours = ["l0", "l10", "l20"].map((name) => getComputedStyle($(`.ramp .${name}`)).backgroundColor);
    found.underlined = all.flatMap((one, index) => one.classList.contains("y") ? [index] : []);
    found.broken = document.getElementById("broken") !== null;
    """
    found = driven(page, tmp_path, script)
    assert found["text"].replace("↵", "") == TEXT
    assert found["text"].count("↵") == TEXT.count("\n")
    assert found["start"] == ["residual.3 · 4 of 4", *expected(reading, 3)]  # the best one
    assert found["score"] == "Test balanced accuracy 80.0 % (50.0–96.0)"
    assert found["first"] == ["residual.0 · 1 of 4", *expected(reading, 0)]
    assert found["gap"] == ["residual.2 · 3 of 4", *expected(reading, 2)]
    assert "1 token has no number here" in found["rates"]
    assert found["half"][1:] == list(expected(reading, 2, 0.5)[1:])
    high = 1 / (1 + np.exp(-(np.log(PRIOR / (1 - PRIOR)) + 2)))
    assert found["high"][:2] == list(expected(reading, 2, high)[1:])
    assert found["high"][2] == f"{100 * high:.1f} %"
    assert len(set(found["colours"])) == 3
    assert found["underlined"] == np.flatnonzero(reading.labels.numpy() == 1).tolist()
    assert not found["broken"]


def test_hover_shows_a_card_and_a_click_pins_it(page, reading, tmp_path):
    script = """
    const over = (index) => all[index].dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    over(3);
    found.hover = card();
    found.points = document.querySelectorAll(".card circle").length;
    found.line = $(".card path.line").getAttribute("d").match(/[ML]/g).join("");
    found.told = $(".card svg").getAttribute("aria-label").replace(/\\u00a0/g, " ");
    all[4].click();
    over(3);
    found.pinned = [current(), card()];
    found.hash = location.hash;
    over(5);
    press("ArrowLeft", document.body);
    found.left = [$(".layer output").textContent, card()];
    press("Escape", document.body);
    found.released = [current(), card(), location.hash];
    over(5);
    found.missing = card();
    found.gap = $(".card path.line").getAttribute("d").match(/[ML]/g).join("");
    over(6);
    found.own = card();
    all[4].click(); all[4].click();
    found.again = current();
    """
    found = driven(page, tmp_path, script)
    p = reading.probabilities

    def shown(value: float) -> str:
        value = float(value)
        places = 2 - int(np.floor(np.log10(100 * min(value, 1 - value))))
        return f"{100 * value:.{min(places, 6 if value < 0.5 else 3)}f} %"

    assert shown(p[3, 3]) in found["hover"]
    assert f"own P(“ the”): {shown(reading.own[3])}" in found["hover"]
    assert "token 4 of" in found["hover"]
    assert "pinned" not in found["hover"]
    assert (found["points"], found["line"]) == (LAYERS, "MLLL")
    assert all(f"residual.{n} {shown(p[n, 3])}" in found["told"] for n in range(LAYERS))
    assert found["pinned"][0] == 4
    assert "pinned" in found["pinned"][1]
    assert shown(p[3, 4]) in found["pinned"][1]
    assert found["hash"] == "#layer=3&token=4"
    assert found["left"][0] == "residual.2 · 3 of 4"
    assert shown(p[2, 4]) in found["left"][1]
    assert found["released"][0] == -1
    assert found["released"][1].startswith("Point at a token")
    assert found["released"][2] == "#layer=2"
    assert "no number" in found["missing"]
    assert "not finite" in found["missing"]
    assert found["gap"] == "MLM"
    assert "own P(“ the”): no number" in found["own"]
    assert found["again"] == -1


def test_keys_find_disagreements_and_walk_through_tokens(page, reading, tmp_path):
    script = """
    const found_ = [];
    set($("#layer"), 0);
    for (let turn = 0; turn <= hits().length; turn += 1) { press("n", document.body); found_.push(current()); }
    found.next = found_;
    press("p", document.body);
    found.before = current();
    found.said = $(".spoken").textContent;
    press("Escape", document.body);
    const reach = () => all.filter((one) => one.tabIndex === 0).length;
    found.reach = reach();
    all[current() < 0 ? all.findIndex((one) => one.tabIndex === 0) : 0].focus();
    const from = all.indexOf(document.activeElement);
    press("ArrowDown"); press("ArrowDown"); press("ArrowUp");
    found.walked = [current() - from, all.indexOf(document.activeElement) - from, reach()];
    press("Enter");
    found.entered = current();
    press("e", document.body);
    found.only = [$(".errors").getAttribute("aria-pressed"), getComputedStyle(all.find((one) => !one.classList.contains("w"))).opacity,
      getComputedStyle(all.find((one) => one.classList.contains("w"))).opacity];
    press("e", document.body);
    found.every = $(".errors").getAttribute("aria-pressed");
    $("#threshold").focus();
    press("ArrowRight", $("#threshold"));

    found.layer = $(".layer output").textContent;
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", ctrlKey: true, bubbles: true }));

    found.control = $(".layer output").textContent;
    $(".after").click();
    found.button = current();
    found.named = Array.from(document.querySelectorAll(".panel button, .panel input, .panel select"))
      .filter((one) => one.offsetParent !== null)
      .every((one) => one.getAttribute("aria-label") || one.textContent || one.labels?.length);
    """
    found = driven(page, tmp_path, script)
    wrong = expected(reading, 0)[1]
    assert len(wrong) > 3
    assert found["next"] == [*wrong, wrong[0]]  # round again at the end
    assert found["before"] == wrong[-1]
    assert "wrong" in found["said"]
    assert found["reach"] == 1
    assert found["walked"] == [1, 1, 1]
    assert found["entered"] == -1
    assert (found["only"][0], found["only"][2]) == ("true", "1")
    assert float(found["only"][1]) < 0.5
    assert found["every"] == "false"
    assert found["layer"] == found["control"] == "residual.0 · 1 of 4"
    assert found["button"] in wrong
    assert found["named"]


def test_an_address_opens_a_layer_and_a_token(page, tmp_path):
    script = "found.at = [$('.layer output').textContent, current(), card()];"
    found = driven(page, tmp_path, script, "#layer=1&token=9")
    assert found["at"][:2] == ["residual.1 · 2 of 4", 9]
    assert "pinned" in found["at"][2]
    nonsense = driven(page, tmp_path, script, "#layer=99&token=x")
    assert nonsense["at"][:2] == ["residual.3 · 4 of 4", -1]


def test_the_page_opens_at_the_layer_that_validation_chose(reading, tokenizer, tmp_path):
    """Layer 3 is best on test; validation says 1. Without its scores it is the last layer."""
    chosen = replace(
        reading,
        abouts=tuple(
            replace(one, scores={**one.scores, "validation_balanced_accuracy": score})
            for one, score in zip(reading.abouts, (0.6, 0.8, 0.7, float("nan")), strict=True)
        ),
    )
    script = "found.at = $('.layer output').textContent;"
    assert (
        driven(html_of(chosen, tokenizer, tmp_path), tmp_path, script)["at"]
        == "residual.1 · 2 of 4"
    )
    worst = replace(
        reading,
        abouts=tuple(
            replace(one, scores={"balanced_accuracy": 0.9 - place / 10})
            for place, one in enumerate(reading.abouts)
        ),
    )
    assert (
        driven(html_of(worst, tokenizer, tmp_path), tmp_path, script)["at"] == "residual.3 · 4 of 4"
    )


def test_of_many_classes_one_is_shown_and_without_labels_what_is_above_is_found(
    tokenizer, tmp_path
):
    made = reading_of(tokenizer, task="labels", classes=3)
    made = replace(made, starts=(0, 9))
    page = html_of(made, tokenizer, tmp_path)
    script = """
    found.heads = Array.from(document.querySelectorAll(".reading h3"), (one) => one.textContent);
    found.first = hits();
    found.hidden = $(".counts").hidden;
    $("select").value = "2"; $("select").dispatchEvent(new Event("change"));
    found.third = hits();
    found.rates = $(".rates").textContent;
    found.hash = location.hash;
    """
    found = driven(page, tmp_path, script)
    assert found["heads"] == ["Document 1 of 2", "Document 2 of 2"]
    p = made.probabilities[LAYERS - 1].numpy()
    assert found["first"] == np.flatnonzero(p[:, 0] >= 1 / 3).tolist()
    assert found["third"] == np.flatnonzero(p[:, 2] >= 1 / 3).tolist()
    assert found["rates"].startswith(f"{len(found['third'])} of {len(p)} tokens are above")
    assert found["hidden"]
    assert "class=2" in found["hash"]


def test_a_narrow_page_does_not_scroll_sideways(page, tmp_path):
    script = """
    all[20].click();
    const box = $(".card").getBoundingClientRect();
    found.sizes = [document.documentElement.scrollWidth, innerWidth, innerHeight - box.bottom, getComputedStyle($(".layer")).position];
    """
    found = driven(page, tmp_path, script, "", "--window-size=500,800")
    width, window, below, position = found["sizes"]
    assert width <= window
    assert (below, position) == (0, "sticky")
