"""`cutaway sae features|effect|export`: reading a dictionary's features, and using them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from cutaway.base import display, files
from cutaway.base.errors import UserError
from cutaway.cli.common import Flag, output_format

# of a feature's value: far beyond it nothing of the state is left in float32, and norms overflow
LARGEST = 1e9
_NAMED = 10  # features that fire instead, at most
_CHANGES = ["token_id", "token", "before", "after", "change"]


def features(
    dictionary: Path,
    *,
    model: str | None = None,
    data: str | None = None,
    activations: Path | None = None,
    site: str | None = None,
    tokens: str = "1M",
    examples: int = 20,
    feature: int | None = None,
    top: int = 10,
    out: Path | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Read every feature: what it fires on and promotes; tables and a page to search.

    Args:
        dictionary: A dictionary's run, or a folder of a saved or foreign one.
        model: The model it is of [the one it was trained on].
        data: Text to read over [the hidden states or text it was trained on].
        activations: A store of hidden states to read over [the recorded one].
        site: Where in the model it was trained, for files that do not say: residual.6, mlp.3.
        tokens: How many tokens of it.
        examples: Strongest examples kept of each feature.
        feature: Print all about this one.
        top: How many features to list, the most frequent first.
        out: Where features.json, the tables and features.html go [DICTIONARY/features].
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.config import count
    from cutaway.features.page import write_page
    from cutaway.figures.text import visible
    from cutaway.runs import checksums, places
    from cutaway.workbench import session as using

    format = output_format(json, csv)
    if top < 1:
        raise UserError(f"top = {top}: expected 1 or more")
    folder = out or using.home(dictionary) / "features"
    places.require_output(folder, "features", ("features.json",))
    files.require_writable(folder)
    session = using.Session(dictionary, model=model, data=data, activations=activations, site=site)
    session.require_feature(feature)
    found = session.features(count(tokens), examples)
    found.save(folder)
    page = write_page(found, folder)
    checksums.finish(folder)
    if feature is not None and format == "table":
        print(found.summary(feature))
    elif feature is not None:
        display.show([found.row(feature) | {"examples": found.examples_of(feature)}], format)
    else:
        shown = visible if format == "table" else str
        display.show(using.most_frequent(found, top, shown), format)
    for line in found.left_out if feature is None or format != "table" else ():
        (print if format == "table" else display.notice)(line)
    display.notice(f"wrote {page}")


def export(
    dictionary: Path, *, format: str = "saelens", out: Path | None = None, site: str | None = None
) -> None:
    """Hand a dictionary on to other libraries.

    Args:
        dictionary: A dictionary's run or folder.
        format: saelens, or cutaway (safetensors and JSON).
        out: The folder to write; a new or empty one.
        site: Where in the model it was trained, for files that do not say: residual.6, mlp.3.
    """
    from cutaway.dictionaries.files import export as write
    from cutaway.dictionaries.model.dictionary import Dictionary
    from cutaway.runs import places

    if out is None:
        raise UserError("sae export: say where to, with --out FOLDER")
    places.require_output(out, "an export")
    print(write(Dictionary.load(dictionary, site=site), out, format))


def effect(
    dictionary: Path,
    *,
    feature: int | None = None,
    value: float = 0.0,
    mode: Literal["set", "scale", "add"] = "set",
    prompt: str,
    chat: Flag = False,
    model: str | None = None,
    site: str | None = None,
    length: int = 40,
    temperature: float = 0.8,
    seed: int = 0,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Switch a feature off, or steer with it: the next token's odds, and a sample, before and after.

    Without --feature: which features fire on the prompt.

    Args:
        dictionary: A dictionary's run or folder.
        feature: Which feature; left out, those that fire on the prompt are listed.
        value: What its activation is set to, scaled by, or what is added to it (raw units).
        mode: set, scale or add.
        prompt: Text to begin with.
        chat: The prompt is what a user says, in the model's chat template, and the model is about to
            reply (so in any case where the dictionary was trained on conversations).
        model: The model it is of [the one it was trained on].
        site: Where in the model it was trained, for files that do not say: residual.6, mlp.3.
        length: Tokens of the sample.
        temperature: Of the sample; 0 takes the likeliest token.
        seed: Of the sample.
        json: Print JSON.
        csv: Print CSV.
    """
    from cutaway.activations.reading import of_chat
    from cutaway.dictionaries import origin
    from cutaway.features.effects import compare_logits, feature_effect, firing, sample_both
    from cutaway.figures.text import visible
    from cutaway.workbench import session as using

    format = output_format(json, csv)
    if not prompt:
        raise UserError("prompt = '': expected some text to begin with")
    if length < 0:
        raise UserError(f"length = {length}: expected 0 or more")
    if not abs(value) <= LARGEST:
        raise UserError(
            f"value = {value}: expected a finite number, at most {LARGEST:g} either way"
        )
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature = {temperature}: expected a finite number, 0 or more")
    session = using.Session(dictionary, model=model, site=site)
    session.require_feature(feature)
    loaded, network = session.dictionary, session.model

    def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "token": visible(row["token"])} if format == "table" else row for row in rows
        ]

    reading = origin.reading(loaded, network)
    if chat and reading.chat is None:
        reading = of_chat(network, None, reading, reply_only=False)
    fires = firing(network, loaded, prompt, reading=reading)
    if feature is None:
        display.show(shown(fires), format, empty="no feature fires on this prompt")
        if (why := network.abilities.why_not) is not None:
            told = f"effects on the next token are left out: {why}"
            (print if format == "table" else display.notice)(told)
        return

    def changed() -> Any:
        return feature_effect(network, loaded, None, {feature: value}, mode=mode)

    moved = compare_logits(network, prompt, changed(), reading=reading)
    before, after = sample_both(
        network,
        prompt,
        changed(),
        length=length,
        temperature=temperature,
        seed=seed,
        reading=reading,
    )
    silent = feature not in [one["feature"] for one in fires]
    idle = silent and (mode == "scale" or (mode == "set" and value == 0))
    if idle:
        others = ", ".join(str(one["feature"]) for one in fires[:_NAMED]) or "none"
        later = "" if before == after else " (but in the sample, where it does)"
        display.notice(
            f"feature {feature} does not fire on this prompt, and nothing changes{later}; features "
            f"that do, the strongest first: {others}"
        )
    rows = [*moved.raised, *reversed(moved.lowered)]
    weights = network.reference.dequantised
    if format == "json":
        samples = {"without": before, "with": after}
        if weights:
            samples["weights"] = weights
        figures = {"divergence": moved.divergence, **samples, "tokens": rows}
        display.show([{**figures, "reading": reading.to_json()}], format)
    elif format == "csv":
        display.show(rows, format, columns=_CHANGES)
    elif rows:
        display.show(shown(rows))
        print("change: of the logit less the mean over the vocabulary, nats")
        print(f"the prompt is read with {reading.described(network.tokenizer)}")
        print(f"\nKL(before ‖ after) of the next token: {moved.divergence:.4f} nats")
        if weights:
            print(f"weights of {network.reference.id}: {weights}")
    elif not idle:
        display.notice("the next token's odds do not change")
    if format == "table" and (rows or before != after):
        print(f"\nwithout: {before}\n\nwith:    {after}")
