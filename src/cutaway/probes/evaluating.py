"""Probes judged on other data: examples of `cutaway probe data`, a text, or labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.probes.data import METADATA, PARTS, Examples, ProbeData
from cutaway.probes.evaluation import drawn_groups, judge
from cutaway.probes.inputs import finite, require_tokens
from cutaway.probes.labelled import label_data
from cutaway.probes.probe import Probe, ProbeAbout
from cutaway.probes.probing import SCORES
from cutaway.probes.states import states_of
from cutaway.text.packing import packed
from cutaway.text.sources import source

TOKENS = 100_000  # of a text that is judged on, where nobody says how many
_CONTEXT = 256  # tokens of context, for probes that name none


def evaluate(probes: Sequence[Probe], model: Model, examples: Examples) -> list[dict[str, Any]]:
    """A row of scores per probe, as in the table `layers`, from one pass over the examples."""
    found = states_of(model, examples, [probe.site for probe in probes])
    found, examples = finite(found, examples, "data")
    rows, (groups, _) = [], drawn_groups(examples.document)
    for probe, states in zip(probes, found.values, strict=True):
        score = judge(probe.even(states), probe.natural(states), examples.label, groups).rows()[0]
        about = {"site": probe.about.site, "layer": probe.site.layer, "method": probe.about.method}
        rows.append(about | {"n_test": len(examples)} | {name: score[name] for name in SCORES})
    return rows


def examples_for(
    probes: Sequence[Probe],
    model: Model,
    data: str,
    *,
    part: str | None = None,
    tokens: int = TOKENS,
    label: str | None = None,
) -> Examples:
    """The examples that `data` means to these probes.

    A folder of probe data gives its `part` (test, or `all` of them). For probes of a token, any source of
    text: every token with at least half the probes' context before it, labelled by the text
    itself. For others a file or folder of labelled texts or CoNLL words (`label`: one entity
    type). UserError for what does not go with the probes, and for a `part` or `label` that does not go
    with the data.
    """
    about = probes[0].about
    stored = (Path(data) / METADATA).is_file()
    if part is not None and not stored:
        raise UserError(f"part = {part!r}: goes with a folder of probe data, not with {data}")
    if label is not None and (stored or about.task != "labels"):
        raise UserError(f"label = {label!r}: goes with a CoNLL file for probes of labels")
    if stored:
        return _stored(about, model, ProbeData.load(data), "test" if part is None else part)
    if about.task != "labels":
        return _text(about, model, data, tokens)
    read = "last" if about.read == "token" else "mean"
    found = label_data(data, model.reads, label=label, read=read, context_length=model.max_length)
    return _stored(about, model, found, "all")


def _stored(about: ProbeAbout, model: Model, data: ProbeData, part: str) -> Examples:
    require_tokens(data, model)
    data = data.reading(about.task)
    if data.target_id != about.target_id:
        raise UserError(
            f"{data.name}: its target is {data.target!r}, and the probes' is {about.target!r}"
        )
    if unknown := sorted(set(data.classes) - set(about.classes)):
        raise UserError(
            f"{data.name}: has examples of {unknown[0]!r}, and the probes know "
            f"{', '.join(map(repr, about.classes))}"
        )
    if part != "all" and part not in PARTS:
        raise UserError(f"part = {part!r}: expected all, {', '.join(PARTS)}")
    place = torch.tensor([about.classes.index(one) for one in data.classes])
    chosen = [data.parts[name] for name in (PARTS if part == "all" else (part,))]
    joined = chosen[0] if len(chosen) == 1 else _joined(chosen)
    return Examples(**{**joined.__dict__, "label": place[joined.label]})


def _joined(parts: Sequence[Examples]) -> Examples:
    """Several parts' examples as one."""
    parts = [part.compact() for part in parts]
    tokens = [len(part.tokens) for part in parts]
    contexts = [len(part.begin) for part in parts]
    moves = {
        "begin": np.cumsum([0, *tokens[:-1]]),
        "end": np.cumsum([0, *tokens[:-1]]),
        "context": np.cumsum([0, *contexts[:-1]]),
    }
    names = ("tokens", "begin", "end", "context", "first", "last", "label", "document")
    return Examples(
        **{
            name: torch.cat(
                [
                    getattr(part, name) + (int(moves[name][at]) if name in moves else 0)
                    for at, part in enumerate(parts)
                ]
            )
            for name in names
        }
    )


def _text(about: ProbeAbout, model: Model, data: str, tokens: int) -> Examples:
    """Every token of a text from the middle of its context on, labelled by the text."""
    length = about.context_length or _CONTEXT
    length = min(length, model.max_length or length)
    text = packed(source(data), model.reads, length + 1, tokens=tokens)
    found = text.contexts(0, text.n_contexts)
    half, count = length // 2, text.n_contexts
    inside = torch.arange(half, length)
    each = torch.arange(count).repeat_interleave(length - half)
    ids = torch.from_numpy(found.tokens)
    after = ids[:, half + 1 :] if about.task == "next" else ids[:, half:-1]
    begin = torch.arange(count) * (length + 1)
    return Examples(
        tokens=ids.flatten().int(),
        begin=begin,
        end=begin + length,
        context=each,
        first=inside.repeat(count),
        last=inside.repeat(count),
        label=(after == about.target_id).long().flatten(),
        document=torch.from_numpy(found.documents[:, half:-1].astype(np.int64)).flatten(),
    )
