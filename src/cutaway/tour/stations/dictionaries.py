"""The dictionaries' station: hidden states of the GPT-2 twin, a dictionary per layer, its features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.display import notice
from cutaway.figures.html import Picture, Section, Table
from cutaway.figures.text import visible

if TYPE_CHECKING:
    from cutaway.dictionaries.model.dictionary import Dictionary
    from cutaway.evaluations.evaluate import Evaluation
    from cutaway.features.table import Features
    from cutaway.nets.model import Model

TWIN = "docstrings-tiny-gpt2"
PROMPT = "Return the name of the"
TOKENS, STEPS = 200_000, 1500
_SHOWN = 8
_OFTEN = 100  # tokens a feature shown has fired on


def visit(out: Path, fast: bool) -> list[Section]:
    """Extract, train, judge, read; switch a feature off."""
    from cutaway.features.table import Features
    from cutaway.workbench.pipeline import FEATURES, pipeline

    model = twin(out, fast)
    folder = out / "dictionaries"
    steps = STEPS // 10 if fast else STEPS
    notice(f"hidden states of {model.name}, and a dictionary of {steps} steps per layer")
    evaluations = pipeline(
        str(model), folder, tokens=TOKENS, settings={"max_steps": steps, "target_l0": 8}
    )
    last = folder / evaluations[-1].site
    features = Features.load(last / FEATURES)
    return [
        _worth(evaluations, model, folder),
        _read(features, last),
        _effect(features, last, model),
    ]


def twin(out: Path, fast: bool) -> Path:
    """The language station's GPT-2, or one trained here where that was not visited."""
    from cutaway.studies.presets import find_preset
    from cutaway.studies.train import train

    folder = out / TWIN
    if not folder.exists():
        found = find_preset(TWIN)
        values = dict(found.values)
        if fast:
            values |= {"max_iters": 100, "warmup_iters": 10, "eval_interval": 50}
        notice(f"training {TWIN}: {values['max_iters']} steps into {folder}")
        train(found.study, values, folder)
    return folder


def _worth(evaluations: list[Evaluation], model: Path, folder: Path) -> Section:
    from cutaway.evaluations.evaluate import table
    from cutaway.evaluations.pictures import layer_bars

    columns = ("site", "coder", "L0", "dead", "EV", "NMSE", "CE recovered")
    rows = [{name: row[name] for name in columns} for row in table(evaluations)]
    return Section(
        "Dictionaries of hidden states",
        f"The residual stream of the GPT-2 twin after each block, as sums of few features out of "
        f"{evaluations[0].d_hidden}. Judged on held-out text beside principal components and random "
        "directions of the same number of features per token. EV: explained variance, 0 for "
        "predicting the mean. CE recovered: how much of what zeroing the layer costs the model its "
        "reconstruction gives back.",
        pictures=[
            Picture(layer_bars(evaluations), "Each layer's dictionary beside its baselines.")
        ],
        table=Table(rows),
        commands=f"cutaway sae pipeline {os.path.relpath(model)} --tokens 200k --target-l0 8 --out out/sae\n"
        f"cutaway sae eval {os.path.relpath(folder / evaluations[-1].site)}",
    )


def _read(features: Features, run: Path) -> Section:
    rows = []
    for index in _telling(features)[:_SHOWN]:
        row = features.row(index)
        rows.append(
            {
                "feature": index,
                "density": row["density"],
                "fires on": "  ".join(_said(one) for one in row["tokens"][:5]),
                "promotes": "  ".join(_said(one) for one in (row["promoted"] or [])[:5]),
            }
        )
    page = os.path.relpath(run / "features" / "features.html")
    return Section(
        "Features one can read",
        f"Of {len(features)} features, those on {_OFTEN} tokens or more that say most about which "
        f"token it is (by lift: how much likelier on that token than on any). All of them, with "
        f"examples: {page}",
        table=Table(rows),
        commands=f"cutaway sae features {os.path.relpath(run)} --top 20",
    )


def _effect(features: Features, run: Path, model: Path) -> Section:
    from cutaway.dictionaries.model.dictionary import Dictionary
    from cutaway.features.effects import compare_logits, feature_effect
    from cutaway.nets.reference import open_model

    dictionary, network = Dictionary.load(run), open_model(model)
    index = _strongest(dictionary, network)
    change = feature_effect(network, dictionary, None, {index: 0.0})
    moved = compare_logits(network, PROMPT, change, top=network.vocab_size // 2)
    each = {row["token_id"]: row for row in [*moved.lowered, *moved.raised]}.values()
    most = sorted(each, key=lambda row: -abs(row["after"] - row["before"]))[:_SHOWN]
    rows: list[dict[str, Any]] = [
        {"next token": visible(row["token"]), "before": row["before"], "after": row["after"]}
        for row in most
    ]
    return Section(
        "Switching a feature off",
        f"Feature {index} fires on “{PROMPT}”. Without its part of the state (everything else stays, "
        "what the dictionary does not explain included) the probability of these next tokens moves "
        "the most.",
        table=Table(rows),
        commands=f'cutaway sae effect {os.path.relpath(run)} --feature {index} --prompt "{PROMPT}"',
    )


def _telling(features: Features) -> list[int]:
    """Features by how much a token says about them: lift times the share of it they fire on."""

    def clarity(index: int) -> float:
        row = features.row(index)
        best = row["tokens"][0] if row["tokens"] else None
        if best is None or row["fires"] < _OFTEN:
            return 0.0
        return best["lift"] * best["share"]

    return sorted(range(len(features)), key=clarity, reverse=True)


def _strongest(dictionary: Dictionary, network: Model) -> int:
    """The feature that is the strongest on the prompt's last token."""
    from cutaway.activations.capture import capture
    from cutaway.dictionaries.origin import site_of

    site = site_of(dictionary)
    states = capture(network, network.tokens(PROMPT), [site])[network.site(site)]
    fired = dictionary.encode(states.float())[0, -1]
    return int(fired.argmax())


def _said(token: dict[str, Any]) -> str:
    return visible(token["token"])
