"""A dictionary's features as one HTML page: search, sort, a card of each with its examples.

Everything is in the file; the browser fetches nothing and may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.files import write_text
from cutaway.features.table import Features
from cutaway.nets.quantised import dequantised

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", dtype="S1")
_FILE = "features.html"
_PROMOTES = " **Promotes**: tokens whose logit its decoder row raises most, before the final norm's scaling."


def features_page(features: Features, *, examples: int = 8, title: str | None = None) -> str:
    """The page's HTML: a table of all features, with at most `examples` on each one's card.

    In a window each token's colour is its activation's share of the feature's largest, in 35 steps.
    """
    from markupsafe import Markup, escape

    from cutaway.figures.html import Section, page, part

    facts = features.facts
    shape, reference = facts["dictionary"], facts["reference"] or {}
    model = Path(reference["id"]).name if reference.get("kind") == "run" else reference.get("id")
    of = f" of {model}" if model else ""
    dead, left_out = features.dead, facts.get("left_out") or {}
    weights = dequantised(reference.get("quantisation"))
    without = ", position 0 of each context left out" if facts["skip_first"] else ""
    sections = [
        Section(
            "Features",
            [
                f"Read over {facts['tokens']:,} tokens{without}: {facts['l0']:.3g} features "
                f"fire per token, {facts['dead_share']:.1%} of "
                f"{len(features):,} never did. Search for a token, sort by a column's head, go "
                "through rows with the arrow keys.",
                "**Fires on**: tokens by lift, how many times more often the feature fires on the "
                "token than on any." + _PROMOTES * features.promotes,
                *(f"{what.capitalize()}: left out; {why}." for what, why in left_out.items()),
                *([f"Text is read with {how}."] if (how := facts.get("read_with")) else []),
                *([f"Units: {units}."] if (units := facts.get("units")) else []),
            ],
            body=part("features", _data(features, examples)),
        ),
    ]
    if dead:
        links = (Markup('<a href="#feature={0}">{0}</a>').format(escape(index)) for index in dead)
        listed = Markup('<p class="dead-list">{}</p>').format(Markup(" ").join(links))
        silent = f"Silent on all {facts['tokens']:,} tokens."
        sections.append(Section(f"Dead features: {len(dead):,}", silent, body=listed))
    return page(
        title or f"{facts['site']}{of}",
        sections,
        subtitle=f"{shape['architecture']} dictionary, {shape['d_model']:,} → {shape['d_hidden']:,}"
        + (f"; weights of {model} {weights}" if weights else ""),
        parts=("tokens", "features"),
    )


def write_page(features: Features, folder: str | Path, *, examples: int = 8) -> Path:
    """Write `features.html` into a folder; returns its path."""
    path = Path(folder) / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, features_page(features, examples=examples))
    return path


class _Words:
    """Tokens of a page, each once, under a number of its own; two that read the same are one."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.number.setdefault(word, len(self.number))


def _data(features: Features, examples: int) -> dict[str, Any]:
    """What the page's script reads (`figures/html/features.js`)."""
    words = _Words()
    table = features.table
    shown = _examples(features, examples, words)
    columns = [table[name].to_pylist() for name in ("fires", "density", "max", "mean")]
    histograms = np.array(table["histogram"].to_pylist())
    rows = []
    for index, (fires, density, largest, mean) in enumerate(zip(*columns)):
        rows.append(
            {
                "fires": fires,
                "density": _rounded(density),
                "max": _rounded(largest),
                "mean": _rounded(mean),
                "bins": _bins(histograms[index]) if fires else [],
                "tokens": [],
                "promoted": [],
                "examples": shown[index],
            }
        )
    for name, figure in (("tokens", "lift"), ("promoted", "logit")):
        for row, found in zip(rows, table[name].to_pylist()):
            for one in found or ():
                pair: list[Any] = [words(one["token"]), _rounded(one[figure])]
                if name == "tokens":
                    pair.append(f"{one['fires']:,} of its {one['occurrences']:,} occurrences")
                row[name].append(pair)
    edges = [_rounded(edge) for edge in features.edges.tolist()]
    return {
        "words": list(words.number),
        "features": rows,
        "edges": edges,
        "promotes": features.promotes,
    }


def _examples(features: Features, most: int, words: _Words) -> list[list[Any]]:
    """Of each feature its first examples: activation, document, position, centre, tokens, levels."""
    table = features.examples.filter(_less(features.examples["rank"], most)).combine_chunks()
    tokens = table["tokens"].combine_chunks().flatten().to_pylist()
    numbers = [words(token) for token in tokens]
    values = table["activations"].combine_chunks()
    bounds = np.r_[0, np.cumsum(values.value_lengths().to_numpy())]
    owners = table["feature"].to_numpy()
    largest = features.table["max"].to_numpy()[np.repeat(owners, np.diff(bounds))]
    # what is active at all has the first step at least
    levels = np.ceil(35 * values.flatten().to_numpy() / largest).clip(0, 35).astype(int)
    digits = _DIGITS[levels].tobytes().decode()
    places = [table[name].to_pylist() for name in ("activation", "document", "position", "centre")]
    shown: list[list[Any]] = [[] for _ in range(len(features))]
    for row, owner in enumerate(owners.tolist()):
        window = slice(bounds[row], bounds[row + 1])
        activation, *where = (column[row] for column in places)
        shown[owner].append([_rounded(activation), *where, numbers[window], digits[window]])
    return shown


def _less(column: pa.ChunkedArray, most: int) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.less(column, most)


def _bins(counts: np.ndarray) -> list[int]:
    """The first bin that holds anything, and the counts from there to the last."""
    held = np.flatnonzero(counts)
    return [int(held[0]), *counts[held[0] : held[-1] + 1].tolist()]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
