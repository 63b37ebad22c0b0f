"""The probes' station: does the GPT-2 twin know that " the" comes next, at which layer, and how much
of that is the current token alone?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.display import notice
from cutaway.figures.html import Picture, Section, Table
from cutaway.tour.stations.dictionaries import twin

if TYPE_CHECKING:
    from cutaway.probes.data.examples import ProbeData
    from cutaway.runs.folder import Run

TARGET = " the"
CONTEXT, EXAMPLES, TOKENS = 64, 4000, 2000
_CONTROLS = {
    "current_token": "the current token alone",
    "model": "the model's own P(next)",
    "untrained": "an untrained model",
    "mass_mean": "difference of means",
    "token_type": "random label per token type",
    "shuffled": "shuffled labels",
}


def visit(out: Path, fast: bool) -> list[Section]:
    """Windows before " the", probes of every layer with controls, a page of text."""
    from cutaway.nets.reference import open_model
    from cutaway.probes.data.windows import token_data
    from cutaway.probes.train.run import train_probes
    from cutaway.text.sources import source

    model = twin(out, fast)
    count = EXAMPLES // 10 if fast else EXAMPLES
    notice(f"probes of {model.name}: is the next token {TARGET!r}?")
    data = token_data(
        source("docstrings"),
        open_model(model).reads,
        TARGET,
        context_length=CONTEXT,
        max_chunks_per_class=count,
        max_evaluation=EXAMPLES,
    )
    folder = data.save(out / "probe-data")
    settings = {"model": str(model), "data": str(folder), "layers": "all"}
    run = train_probes(settings, out / "probes")
    return [_layers(run, folder, model), _page(run, data, out, fast)]


def _layers(run: Run, data: Path, model: Path) -> Section:
    from cutaway.probes.charts.report import probes_figures

    layers, controls = run.read("layers").to_pylist(), run.read("controls").to_pylist()
    rows = [_row(f"probe of {one['site']}", one) for one in layers]
    best = max(layers, key=lambda one: one["validation_balanced_accuracy"])
    rows += [
        _row(words, one)
        for name, words in _CONTROLS.items()
        for one in controls
        if one["control"] == name and one["site"] in (None, best["site"])
    ]
    at, typed = os.path.relpath(run.path), os.path.relpath(model)
    figures = probes_figures(run)
    return Section(
        "Does it know what comes next?",
        "A linear probe reads the twin's state before each token: is the next one `the`? Windows are "
        "split by document; training is balanced, test has the text's own share. Balanced accuracy "
        "is 0.5 by chance; its interval is over documents. What a figure means shows beside its "
        f"controls. {_story(best, controls)}",
        pictures=[
            Picture(figures["accuracy_by_layer"], "Each layer's probe, with its controls."),
            Picture(
                figures["reliability"],
                "What the probes say against what was seen, at the text's own odds.",
            ),
        ],
        table=Table(rows),
        commands=f"cutaway probe data {typed} --context-length {CONTEXT} --out out/probe-data\n"
        f"cutaway probe inspect {os.path.relpath(data)}\n"
        f"cutaway probe train {typed} --data {os.path.relpath(data)} --layers all --out out/probes\n"
        f"cutaway probe eval {at}",
    )


def _story(best: dict[str, Any], controls: list[dict[str, Any]]) -> str:
    """What the controls say of the best layer's score."""
    score = {one["control"]: one for one in controls if one["site"] in (None, best["site"])}
    token, own = score["current_token"]["balanced_accuracy"], score["model"]["balanced_accuracy"]
    reached = best["balanced_accuracy"]
    more = (
        f"{reached:.1%}, of which {token:.1%}"
        if reached > token
        else f"{reached:.1%}, and {token:.1%}"
    )
    return (
        f"Here the best layer reaches {more} can be had from the current token alone, by counting what "
        f"usually follows it; the model's own probability gives {own:.1%}."
    )


def _row(name: str, one: dict[str, Any]) -> dict[str, Any]:
    shown = {"what": name, "balanced accuracy": one["balanced_accuracy"]}
    shown |= {"from": one["low"], "to": one["high"]}
    for key in ("auroc", "average_precision"):
        shown[key.replace("_", " ")] = one.get(key)
    return shown


def _page(run: Run, data: ProbeData, out: Path, fast: bool) -> Section:
    from markupsafe import Markup

    from cutaway.probes.other_data.held_out import held_out_texts
    from cutaway.probes.view.page import write_view
    from cutaway.probes.view.reading import model_of, open_probes, read_tokens, tokens_of

    probes = open_probes(run.path)
    network = model_of(probes)
    ids, starts = tokens_of(
        held_out_texts(data) or (), network.reads, TOKENS // 10 if fast else TOKENS
    )
    reading = read_tokens(network, probes, ids, starts=starts)
    page = write_view(reading, network.reads, out / "probes.html", text="docstrings held out")
    return Section(
        "Probes over text",
        Markup(
            "Every token of held-out text, coloured by how much likelier than usual the probe finds "
            '<code>the</code> next: <a href="{}">open the page</a>, move through the layers, point at '
            "tokens."
        ).format(page.path.name),
        commands=f"cutaway probe view {os.path.relpath(run.path)} --tokens {TOKENS} --out view.html",
    )
