from __future__ import annotations

import warnings

import pytest

from cutaway.figures import look
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series, curves
from cutaway.figures.text import fitted, label, visible, width
from cutaway.figures.ticks import PlainFormatter, number, scientific


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("two words", "two words"),
        ("a  b ", "a␣␣b␣"),
        ("\n\n", "⏎⏎"),
        ("\tx\r", "⇥x\\r"),
        ("", "(empty)"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\x07", "⟨U+0007⟩"),
        ("\udc80", "⟨U+DC80⟩"),  # half a character, as byte-level tokens leave it
        ("Ġthe", "Ġthe"),
        ("_x $y$", "_x $y$"),
    ],
)
def test_what_the_eye_would_miss_is_shown(token, shown):
    assert visible(token) == shown


ODD = [
    "你好",
    "🙂",
    "$x$",
    "_hidden",
    "Ġthe",
    "\n",
    "50% & <b>",
    r"back\slash$",
    "Ελλάδα",
    "\ud83d",
]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_no_label_warns_or_breaks_whatever_is_in_it(tmp_path, ending):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series = [Series(name, [0, 1], [place, place]) for place, name in enumerate(ODD)]
        figure = curves(series, x_label="$step", y_label="a$b$c", title="$\\alpha$ 你好")
        look.save(figure, tmp_path / f"curves.{ending}")
        bars = horizontal_bars(ODD, range(len(ODD)), x_label="$")
        look.save(bars, tmp_path / f"bars.{ending}")


def test_dollars_and_leading_underscores_reach_the_picture_as_they_are(tmp_path):
    series = [Series(name, [0, 1], [place, place]) for place, name in enumerate(["$a$", "_b"])]
    many = [*series, *(Series(f"_run {i}", [0, 1], [i, i]) for i in range(30))]
    for chosen in (series, many):  # at the lines' ends, and in a legend
        figure = curves(chosen, x_label="x", y_label="y")
        text = look.save(figure, tmp_path / "a.svg").read_text()
        assert all(f">{one.label}</text>" in text for one in chosen)


def test_a_character_without_a_glyph_is_spelled_out():
    missing = "\U0001f9ec"  # no font shipped with matplotlib has it
    if label(missing) == missing:
        pytest.skip("a font installed here has the character")
    assert label(f"a{missing}{missing}b") == "a⟨U+1F9EC U+1F9EC⟩b"


def test_long_names_keep_head_and_tail_within_their_room():
    name = "europarl-tiny_lr0.003_" + "x" * 80 + "_seed17"
    for lines in (1, 2, 3):
        short = fitted(name, 100, 7, lines)
        assert short.count("\n") < lines
        assert all(width(line, 7) <= 100 for line in short.split("\n"))
        assert short.startswith("europarl")
        assert short.endswith("17")
        assert "…" in short
    assert fitted("europarl-tiny seed17", 60, 7, 2) == "europarl-tiny\nseed17"
    assert fitted("short", 100, 7) == "short"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (1500, "1,500"),
        (20_000, "20k"),
        (1.5e6, "1.5M"),
        (3e-5, "3×10⁻⁵"),
        (1e-6, "10⁻⁶"),
        (-2, "−2"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, shown):
    assert number(value) == shown


def test_ticks_tell_neighbours_apart():
    write = PlainFormatter().format_ticks
    assert write([0, 0.5, 1.0]) == ["0", "0.5", "1.0"]
    assert write([0, 2.5, 5]) == ["0", "2.5", "5.0"]
    assert write([0, 25_000, 50_000]) == ["0", "25k", "50k"]
    assert write([4.301, 4.302, 4.303]) == ["4.301", "4.302", "4.303"]
    assert write([100_000, 100_500]) == ["100.0k", "100.5k"]
    assert write([0, 2e-4]) == ["0", "2×10⁻⁴"]
    assert scientific(2.5e-7) == "2.5×10⁻⁷"


def test_ticks_of_numbers_that_no_suffix_holds_are_powers_of_ten() -> None:
    """Written out, 10³⁰⁰ leaves a figure no room; losses of runs that diverge are as large."""
    assert PlainFormatter().format_ticks([0.0, 5e299, 1e300]) == ["0", "5×10²⁹⁹", "10³⁰⁰"]
    assert PlainFormatter().format_ticks([0.0, 5e13, 1e14]) == ["0", "50T", "100T"]
