"""Probes judged on other data: examples of `cutaway probe data`, a text, or labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutaway.base.columns import look_alike
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.labelled.files import CONLL
from cutaway.labelled.tables import Columns
from cutaway.nets.model import Model
from cutaway.probes.data.examples import METADATA, PARTS, Examples, ProbeData, joined
from cutaway.probes.data.labels import Read, label_data
from cutaway.probes.other_data.held_out import HeldOut, data_folder, held_out
from cutaway.probes.scores.evaluation import drawn_groups, judge
from cutaway.probes.scores.findings import SCORES
from cutaway.probes.states.collecting import states_of
from cutaway.probes.states.inputs import finite, require_tokens
from cutaway.probes.states.probe import Probe, ProbeAbout
from cutaway.text.conversations import Chosen, template_of
from cutaway.text.documents import Source
from cutaway.text.packing import packed
from cutaway.text.sources import source

TOKENS = 100_000  # of a text that is judged on, where nobody says how many
_CONTEXT = 256  # tokens of context, for probes that name none


def evaluate(probes: Sequence[Probe], model: Model, examples: Examples) -> list[dict[str, Any]]:
    """A row of scores per probe, as in the table `layers`, from one pass over the examples."""
    about = probes[0].about
    how = {"reading": about.reading, "at_start": about.read == "first"}
    found = states_of(model, examples, [probe.site for probe in probes], **how)
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
    data: str | HeldOut,
    *,
    part: str | None = None,
    tokens: int = TOKENS,
    label: str | None = None,
    columns: Columns | None = None,
) -> Examples:
    """The examples that `data` means to these probes.

    A folder of probe data gives its `part` (test, or `all` of them). For probes of a token, any source
    of text: every token of a document with at least half the probes' context before it (of a model
    that looks both ways: all of it), labelled by the text itself. For others a file or folder of
    labelled texts (`columns`: names of a table's) or CoNLL words (`label`: one entity type). UserError for what does not go with the
    probes, and for a `part` or `label` that does not go with the data.
    """
    about = probes[0].about
    stored = isinstance(data, str) and (Path(data) / METADATA).is_file()
    if part is not None and not stored:
        raise UserError(
            f"part = {part!r}: goes with a folder of probe data, not with {_named(data)}"
        )
    if columns is not None and (stored or about.task != "labels"):
        raise UserError("names of columns go with a table of labelled texts, for probes of labels")
    if label is not None and (stored or about.task != "labels"):
        raise UserError(f"label = {label!r}: goes with a CoNLL file for probes of labels")
    if stored:
        return _stored(about, model, ProbeData.load(data), "test" if part is None else part)
    if about.task != "labels":
        return _text(about, model, source(data) if isinstance(data, str) else data, tokens)
    read: Read | None = {"token": "last", "first": "first"}.get(about.read, "mean")
    if Path(data).suffix.lower() in CONLL:  # of words, read at their last token
        read = None
        if label is None and len(about.classes) == 2:
            label = about.classes[1]
    longest = model.max_length and model.max_length - about.reading.overhead
    settings: dict[str, Any] = {"label": label, "read": read, "context_length": longest}
    if (reading := about.reading).chat is not None:
        template = template_of(model.reads, reading)
        chosen = Chosen(_named(data), template, model.reads)
        settings |= {"chat": chosen, "reply_only": reading.reply_only}
    found = label_data(data, model.reads, columns=columns, **settings)
    return _stored(about, model, found, "all")


def own_data(
    probes: Sequence[Probe], path: str | Path, *, part: str | None = None
) -> str | HeldOut:
    """What probes in a folder or run are judged on where nobody says: what their training did not see.

    For probes of a token the test documents of their run's data; where these are not to be had
    (the source has changed, or its documents were cut into sections), for probes of labels, and
    where a `part` is asked for, the folder of these data; where that is gone docstrings, with a
    notice. UserError for probes of labels whose data are gone.
    """
    of_labels, folder = probes[0].about.task == "labels", data_folder(path)
    if not of_labels and part is None and (found := held_out(path)) is not None:
        return found
    if folder is not None:
        if part is None and not of_labels:
            notice(f"{path}: no whole documents are held out; judged on the test part of {folder}")
        return str(folder)
    if of_labels or part is not None:
        raise UserError(f"{path}: the data of its training cannot be found; name some with --data")
    notice(
        f"{path}: the data of its training cannot be found; judged on docstrings, which may be "
        "among them"
    )
    return "docstrings"


def _named(data: str | HeldOut) -> str:
    return data if isinstance(data, str) else data.name


def _stored(about: ProbeAbout, model: Model, data: ProbeData, part: str) -> Examples:
    require_tokens(data, model)
    said = data.chat, bool(data.source.get("reply_only"))
    if said != (about.reading.chat, about.reading.reply_only):
        theirs, ours = (
            _said_of(*one) for one in (said, (about.reading.chat, about.reading.reply_only))
        )
        raise UserError(f"{data.name}: holds {theirs}, and the probes were trained on {ours}")
    data = data.reading(about.task)
    if data.target_id != about.target_id:
        raise UserError(
            f"{data.name}: its target is {data.target!r}, and the probes' is {about.target!r}"
        )
    names = [_class_of(one, about.classes) for one in data.classes]
    if unknown := sorted(set(names) - set(about.classes)):
        raise UserError(
            f"{data.name}: has examples of {unknown[0]!r}, and the probes know "
            f"{', '.join(map(repr, about.classes))}"
        )
    if part != "all" and part not in PARTS:
        raise UserError(f"part = {part!r}: expected all, {', '.join(PARTS)}")
    place = torch.tensor([about.classes.index(one) for one in names])
    chosen = [data.parts[name] for name in (PARTS if part == "all" else (part,))]
    whole = chosen[0] if len(chosen) == 1 else joined(chosen)
    return replace(whole, label=place[whole.label])


def _said_of(chat: str | None, reply_only: bool) -> str:
    what = "replies in conversations" if reply_only else "conversations"
    return "plain text" if chat is None else f"{what} (chat template {chat[:12]})"


def _class_of(name: str, known: Sequence[str]) -> str:
    """The class of the probes that a label means: of that name, or the only one that differs in how it
    is written (1 and 1.0, True and true), which is announced."""
    if name in known:
        return name
    alike = [one for one in known if look_alike((one, name))]
    if len(alike) != 1:
        return name
    notice(f"label {name!r}: taken for the probes' class {alike[0]!r}")
    return alike[0]


def _text(about: ProbeAbout, model: Model, text: Source, tokens: int) -> Examples:
    """Places of a text in windows of its documents, labelled by the text.

    Windows of a context and the token after it follow one another from the beginning of each
    document, and none goes beyond it: training's hold no end-of-text and ask for none. In a model
    that looks both ways a place is the last of its window, or the answer would be seen.
    """
    longest = about.context_length or _CONTEXT
    most = longest if model.max_length is None else model.max_length - about.reading.overhead
    longest = min(longest, most)
    found = packed(text, model.reads, longest + 1, tokens=tokens)
    first = longest // 2 if model.causal else longest - 1
    ids, starts = np.asarray(found.ids).astype(np.int32), found.starts
    ends = np.append(starts[1:], len(ids))
    ends -= ids[ends - 1] == model.reads.end_of_text
    windows = -(-(ends - starts) // (longest + 1))
    document = np.arange(len(starts)).repeat(windows)
    begin = starts[document] + (longest + 1) * _counted(windows)
    size = np.minimum(longest + 1, ends[document] - begin)
    after = int(about.task == "next")
    places = np.clip(np.minimum(size - after, longest) - first, 0, None)
    if not places.any():
        raise UserError(
            f"{text.name}: no document is longer than the {first + after} tokens that a place needs "
            "before it; give longer texts"
        )
    context, last = np.arange(len(begin)).repeat(places), first + _counted(places)
    asked = ids[begin[context] + last + after]
    last = torch.from_numpy(last)
    return Examples(
        tokens=torch.from_numpy(ids),
        begin=torch.from_numpy(begin),
        end=torch.from_numpy(begin + np.minimum(size, longest)),
        context=torch.from_numpy(context),
        first=last,
        last=last.clone(),
        label=torch.from_numpy((asked == about.target_id).astype(np.int64)),
        document=torch.from_numpy(document[context]),
    ).chosen(np.flatnonzero(asked != model.reads.end_of_text))


def _counted(counts: np.ndarray) -> np.ndarray:
    """0, 1, ..., n − 1 for each count n, one after another."""
    return np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)
