from __future__ import annotations

import itertools
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from cutaway.base.errors import UserError
from cutaway.figures import look
from cutaway.figures.curves import Series, curves


def chart(**options):
    series = [Series("first", [0, 1, 2], [3.0, 2.0, 1.0]), Series("second", [0, 1, 2], [2, 2, 2])]
    return curves(series, x_label="step", y_label="loss", **options)


def test_the_ending_chooses_the_format_and_folders_are_made(tmp_path):
    figure = chart()
    folder = tmp_path / "new folder" / "ünï"
    png, pdf, svg = (look.save(figure, folder / name) for name in ("a.png", "a.PDF", "a.svg"))
    with Image.open(png) as image:
        assert image.size == (round(3.4 * look.PNG_DPI), round(2.3 * look.PNG_DPI))
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in content  # TrueType, which publishers accept; Type 3 they do not
    assert b"/Type3" not in content
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    texts = {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")}
    assert {"first", "second", "step", "loss"} <= texts
    assert sorted(path.name for path in folder.iterdir()) == ["a.PDF", "a.png", "a.svg"]


@pytest.mark.parametrize("name", ["loss.gif", "loss", "loss.pdf.txt"])
def test_another_ending_is_refused_with_what_is_accepted(tmp_path, name):
    with pytest.raises(UserError, match=r"\.pdf, \.png or \.svg"):
        look.save(chart(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write") as caught:
        look.save(chart(), tmp_path / "file" / "loss.pdf")
    assert "\n" not in str(caught.value)
    (tmp_path / "folder.pdf").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        look.save(chart(), tmp_path / "folder.pdf")


def test_the_same_figure_gives_the_same_bytes_at_another_time(tmp_path):
    before = [look.save(chart(), tmp_path / f"a.{ending}").read_bytes() for ending in look.FORMATS]
    time.sleep(1.1)  # PDF dates count seconds
    after = [look.save(chart(), tmp_path / f"b.{ending}").read_bytes() for ending in look.FORMATS]
    assert before == after


def test_drawing_leaves_the_settings_of_the_process_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    chart()
    assert dict(matplotlib.rcParams) == before


def test_all_text_is_at_least_seven_points():
    from matplotlib.text import Text

    figure = chart(title="A title", key={"validation": "strong"}, levels={"chance": 1.5})
    figure.draw_without_rendering()
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear sRGB.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(color: str, through) -> np.ndarray:
    """OKLab coordinates of a colour as seen with a deficiency."""
    from cutaway.figures.heatmap import _CONES, _LAB

    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return _LAB @ np.cbrt(_CONES @ np.clip(np.array(through) @ linear, 0, 1))


@pytest.mark.parametrize("deficiency", [*DEFICIENCIES, "none"])
def test_colours_stay_apart_for_colour_blind_readers(deficiency):
    through = DEFICIENCIES.get(deficiency, np.eye(3))
    colors = [seen(look.series_color(i), through) for i in range(len(look.PALETTE))]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)]
    assert min(apart) > 0.07


def test_text_in_a_series_colour_has_contrast_on_white_and_on_dark():
    dark = look.luminance(np.array(to_rgb(look.DARK_PAPER))) + 0.05
    for color in look.PALETTE:
        text = look.luminance(np.array(to_rgb(look.text_color(color)))) + 0.05
        assert 1.05 / text >= 4.5
        swapped = look.dark_scheme()[look.text_color(color)]
        assert (look.luminance(np.array(to_rgb(swapped))) + 0.05) / dark >= 4.5


def test_after_the_last_colour_the_line_style_changes():
    looks = {(look.series_color(i), str(look.series_linestyle(i))) for i in range(32)}
    assert len(looks) == 32
