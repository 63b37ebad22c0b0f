"""The one look of every picture: sizes, type, colours, and writing a figure to a file.

Colours are Okabe and Ito's (2008) without yellow and black, which are too pale and too loud for
lines on white, plus charcoal and violet. Under simulated full protanopia, deuteranopia and
tritanopia (Machado et al. 2009) no two of the eight come closer than 0.07 in OKLab.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cutaway.base.errors import UserError
from cutaway.base.files import replacing

Width = Literal["column", "page"]

WIDTHS: dict[str, float] = {"column": 3.4, "page": 7.0}  # inches: one column, two columns
HEIGHTS: dict[str, float] = {"column": 2.3, "page": 3.3}
FORMATS = ("pdf", "png", "svg")
PNG_DPI = 300

INK, SOFT_INK, GRID, PAPER = "#222222", "#666666", "#e4e4e4", "#ffffff"
DARK_PAPER = "#16181c"
PALETTE = (
    "#0072b2",  # blue
    "#d55e00",  # vermilion
    "#009e73",  # green
    "#cc79a7",  # pink
    "#e69f00",  # orange
    "#56b4e9",  # sky
    "#333333",  # charcoal
    "#5b2a86",  # violet
)
LINESTYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))

# Fonts tried, where installed, for characters that DejaVu Sans (shipped with matplotlib) lacks.
_OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Arial Unicode MS",
    "Noto Emoji",
    "Segoe UI Symbol",
)

_LOCK = threading.RLock()  # matplotlib's settings belong to the process: one figure at a time


@lru_cache
def fonts() -> tuple[str, ...]:
    """The families text is drawn with: DejaVu Sans, then installed ones with more characters."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _OTHER_FONTS if name in installed))


def _settings() -> dict[str, Any]:
    return {
        "font.family": ["sans-serif", *fonts()[1:]],
        "font.sans-serif": ["DejaVu Sans", "Verdana"],  # Verdana: same widths, for SVG readers
        "font.size": 7.5,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 7.5,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "figure.titlesize": 9,
        "figure.titleweight": "bold",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": SOFT_INK,
        "xtick.color": SOFT_INK,
        "ytick.color": SOFT_INK,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.5,
        "lines.markersize": 3.5,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
        "legend.frameon": False,
        "legend.handlelength": 2.2,
        "legend.columnspacing": 1.2,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "figure.dpi": 100,
        "figure.constrained_layout.h_pad": 0.04,
        "figure.constrained_layout.w_pad": 0.04,
        "axes.formatter.useoffset": False,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
        "svg.hashsalt": "cutaway",
    }


@contextmanager
def styled() -> Iterator[None]:
    """Within the block (or the function it decorates) matplotlib draws in the project's look."""
    # matplotlib complains on stderr of a fallback font without a bold face and draws it regular.
    fonts_log = logging.getLogger("matplotlib.font_manager")
    with _LOCK, matplotlib.rc_context(_settings()):
        level = fonts_log.level
        fonts_log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts_log.setLevel(level)


@styled()
def new(
    width: Width = "column",
    height: float | None = None,
    rows: int = 1,
    columns: int = 1,
    **subplots: Any,
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure of `width` ("column" 3.4 in, "page" 7 in) and its axes, an array if more than one.

    `height` in inches is for the whole figure; `subplots` goes on to `Figure.subplots`.
    """
    if width not in WIDTHS:
        raise UserError(f"width = {width!r}: expected column or page")
    if height is None:
        height = HEIGHTS[width] if rows == 1 else 1.9 * rows
    figure = Figure(figsize=(WIDTHS[width], height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **subplots)


def add_note(figure: Figure, text: str) -> None:
    """A soft line of text at the foot of a figure, which grows by its height."""
    lines = text.count("\n") + 1
    figure.set_figheight(figure.get_figheight() + 0.135 * lines + 0.03)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color=SOFT_INK, linespacing=1.2)


def series_color(index: int) -> str:
    """The colour of series `index`; after eight they start again, with the next of LINESTYLES."""
    return PALETTE[index % len(PALETTE)]


def series_linestyle(index: int) -> Any:
    """Solid for the first eight series, dashed for the next eight, and so on."""
    return LINESTYLES[index // len(PALETTE) % len(LINESTYLES)]


@lru_cache
def text_color(color: str) -> str:
    """`color` darkened until text in it reads well on white (contrast 4.5, WCAG 2.2 AA)."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(color))
    while 1.05 / (luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.97
    return to_hex(rgb)


@lru_cache
def dark_scheme() -> dict[str, str]:
    """What each colour of the look becomes on a dark page: neutral ones swapped, others lightened
    until they read well (contrast 4.5) on the page's dark."""
    from matplotlib.colors import to_hex, to_rgb

    swapped = {INK: "#e6e6e6", SOFT_INK: "#a6a6a6", GRID: "#33373d", PAPER: DARK_PAPER}
    paper = luminance(np.array(to_rgb(DARK_PAPER))) + 0.05
    for color in PALETTE:
        rgb = np.array(to_rgb(color))
        while (luminance(rgb) + 0.05) / paper < 4.5:
            rgb = rgb + (1 - rgb) * 0.03
        swapped[color] = swapped[text_color(color)] = to_hex(rgb)
    return swapped


def luminance(rgb: np.ndarray) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def format_of(path: str | os.PathLike[str]) -> str:
    """The picture format a file name asks for; call it before slow work.

    Raises UserError where the ending is none of .pdf, .png, .svg, or the path is a folder.
    """
    path = Path(path)
    ending = path.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise UserError(
            f"{path}: cannot write a picture as {path.suffix or 'a name without ending'!r}; "
            "expected a name ending in .pdf, .png or .svg"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file name to write the picture to")
    return ending


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as PDF, PNG (300 dots per inch) or SVG, by the ending; returns the path.

    The folder is made where missing, the file replaced in one step. The same figure gives the same
    bytes: no dates, no random ids. Raises UserError for another ending or an unwritable place.
    """
    path = Path(path)
    ending = format_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as handle:
            write(figure, handle, ending)
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
    return path


@styled()
def write(figure: Figure, handle: Any, format: str) -> None:
    """Write the figure to an open binary file, without dates or version marks."""
    fields = {
        "pdf": ("CreationDate", "Creator", "Producer"),
        "png": ("Software",),
        "svg": ("Date", "Creator", "Format", "Type"),
    }[format]
    metadata = dict.fromkeys(fields)
    figure.savefig(handle, format=format, dpi=PNG_DPI, metadata=metadata)
