"""Self-contained HTML pages: text, figures, sortable tables and commands in one file.

A page loads nothing: style, script and pictures are inside it, and its content security policy
forbids the browser to fetch anything else. It follows the reader's light or dark scheme, prints,
and works without its script (which only sorts and filters tables).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from cutaway.base.display import cell

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

_FOLDER = Path(__file__).with_name("html")
_SCALE = 1.3  # figures are set for paper; on a screen 7 points become 12 pixels


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with the sentence under it, which is also its description for screen readers."""

    figure: Figure | Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a table that readers sort by its heads and filter. Columns default to all seen."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str] | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, shown in this order: paragraphs, pictures, table, commands to copy.

    In a paragraph `**bold**` and backticks work; anything else is shown as it is. A `Markup` is
    taken as HTML; `body`, after the paragraphs, is HTML of any kind (see `part`).
    """

    title: str
    text: str | Markup | Sequence[str | Markup] = ()
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    commands: str = ""
    body: Markup | str = ""


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str | None = None,
    parts: Sequence[str] = (),
) -> str:
    """The HTML of a whole page; the same content gives the same bytes.

    `parts` names what some pages need besides (`tokens`, `features`): style and script of
    `html/<part>.css` and `.js`.
    """
    shown = []
    for number, section in enumerate(sections, 1):
        paragraphs = [section.text] if isinstance(section.text, str) else section.text
        pictures = [
            {
                "body": _body(picture, f"figure-{number}-{place}-"),
                "caption": inline(picture.caption),
            }
            for place, picture in enumerate(section.pictures, 1)
        ]
        shown.append(
            {
                "id": f"section-{number}",
                "title": section.title,
                "paragraphs": [inline(paragraph) for paragraph in paragraphs],
                "pictures": pictures,
                "table": _table(section.table) if section.table else None,
                "commands": section.commands,
                "body": section.body,
            }
        )
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            sections=shown,
            style=Markup(_texts(("theme", *parts), "css") + _figure_colors()),
            script=Markup(_texts(("table", *parts), "js")),
        )
    )


def part(name: str, data: Any) -> Markup:
    """The HTML of a part (`html/<name>.html.j2`) with its data inside, as JSON for its script;
    the template knows them as `given`."""
    # "<" spelled out: a "</script>" in the data would end it
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")
    return Markup(
        _environment().get_template(f"{name}.html.j2").render(data=Markup(text), given=data)
    )


def _texts(names: Sequence[str], ending: str) -> str:
    return "".join((_FOLDER / f"{name}.{ending}").read_text("utf-8") for name in names)


def inline(text: str | Markup) -> Markup:
    """A paragraph's text as HTML, escaped; backticks become code, `**` bold."""
    if isinstance(text, Markup):
        return text
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html))


def _adapted(tag: str, prefix: str) -> str:
    """A tag of an SVG with its ids prefixed and its colours those of the page's scheme."""
    from cutaway.figures import look

    tag = re.sub(r'( id="|url\(#|href="#)', lambda found: found.group() + prefix, tag)
    for light in look.dark_scheme():
        name = light.removeprefix("#")
        tag = re.sub(rf"(?<=: )#{name}\b", f"var(--figure-{name}, {light})", tag)
    return tag


def figure_svg(figure: Figure, description: str = "", prefix: str | None = None) -> Markup:
    """The figure as an inline SVG that fits its column and follows the page's colour scheme.

    Every id in it begins with `prefix` (default: a hash of the picture), so that several figures
    on a page don't take each other's clip paths.
    """
    from cutaway.figures import look

    buffer = io.BytesIO()
    look.write(figure, buffer, "svg")
    svg = buffer.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S
    )
    if prefix is None:
        prefix = f"figure-{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r"<[^>]*>", lambda tag: _adapted(tag.group(), prefix), svg)  # not what labels say
    points = figure.get_figwidth() * 72
    head = (
        f'<svg role="img" aria-label="{escape(description)}" '
        f'style="{_size(figure)}" viewBox="0 0 {points:g} {figure.get_figheight() * 72:g}">'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).strip())


def figure_png(figure: Figure, description: str = "") -> Markup:
    """The figure as an image inside the page, for pictures with very many marks."""
    from cutaway.figures import look

    buffer = io.BytesIO()
    look.write(figure, buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img alt="{}" style="{}" src="data:image/png;base64,{}">').format(
        description, _size(figure), data
    )


def _size(figure: Figure) -> str:
    """As wide as the column up to full size; on a phone not below half, then it scrolls."""
    points = figure.get_figwidth() * 72 * _SCALE
    return f"width:{points:.0f}pt;min-width:{points * 0.55:.0f}pt"


def _body(picture: Picture, prefix: str) -> Markup:
    if isinstance(picture.figure, Markup):
        return picture.figure
    return figure_svg(picture.figure, picture.caption, prefix)


def _table(table: Table) -> dict[str, Any]:
    columns = table.columns or list(dict.fromkeys(key for row in table.rows for key in row))
    rows = [[_cell(row.get(column)) for column in columns] for row in table.rows]
    numeric = [
        any(row[place]["number"] for row in rows) and not any(row[place]["words"] for row in rows)
        for place in range(len(columns))
    ]
    heads = [
        {"name": name, "numeric": is_number}
        for name, is_number in zip(columns, numeric, strict=True)
    ]
    return {"heads": heads, "rows": rows, "caption": inline(table.caption)}


def _cell(value: Any) -> dict[str, Any]:
    """What a cell shows and, if it is a finite number, the exact value it sorts by."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    missing = value is None or (isinstance(value, float) and not math.isfinite(value))
    return {
        "shown": value if isinstance(value, Markup) else "–" if value is None else cell(value),
        "value": repr(float(value)) if is_number and not missing else None,
        "number": is_number,
        "words": not is_number and not missing,
    }


def _figure_colors() -> str:
    from cutaway.figures import look

    colors = "".join(
        f"--figure-{light.removeprefix('#')}:{dark};" for light, dark in look.dark_scheme().items()
    )
    return f"@media screen and (prefers-color-scheme: dark){{:root{{{colors}}}}}\n"


@lru_cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
