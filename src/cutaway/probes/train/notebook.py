"""Probes in three lines of Python, of any model and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cutaway.activations.reading import special_tokens
from cutaway.base import display
from cutaway.base.columns import Column, is_table, numbers
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.labelled.tables import Columns
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes.data.conversations import is_conversations, of_columns
from cutaway.probes.data.examples import ProbeData
from cutaway.probes.data.labels import Read, data_of, label_data
from cutaway.probes.data.places import require_ratio
from cutaway.probes.data.request import SOLVED, STRENGTHS, Asked, chosen_controls
from cutaway.probes.fitting.layers import Findings, probe_layers
from cutaway.probes.scores.findings import DECISIONS, named
from cutaway.probes.states.inputs import inputs_of, layers_of
from cutaway.text.conversations import Chosen, template_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = (
    *("site", "balanced_accuracy_even", "low", "high", "recall_natural", "precision_natural"),
    *("accuracy_natural", "auroc", "average_precision"),
)


@dataclass
class Report(Findings):
    """What `fit` found: `best`, `probe(site)`, `layers` and `controls` as rows, `figure()`.

    Printed, it is a table: each layer's balanced accuracy on test with its interval, and the
    controls.
    """

    def figure(self) -> Figure:
        """Balanced accuracy over the layers, with controls."""
        from cutaway.probes.charts.report import accuracy_by_layer, probe_title

        about = self.probes[0].about
        return accuracy_by_layer(
            self.layers, self.controls, classes=len(about.classes), title=probe_title(about)
        )

    def save(self, folder: str | Path) -> Path:
        """Each probe into `folder/SITE`; returns the folder."""
        folder = Path(folder)
        for probe in self.probes:
            probe.save(folder / probe.about.site)
        return folder

    def __repr__(self) -> str:
        return (
            _text([named(row) for row in self.layers], _SHOWN)
            + "\n"
            + _text(
                [named(row) for row in self.controls],
                ("control", "site", "balanced_accuracy_even", "low", "high", "selectivity"),
            )
            + f"\n{DECISIONS}"
        )


@door
def fit(
    model: str | Path | Model,
    texts: Column | ProbeData | str | Path | None = None,
    labels: Column | str | None = None,
    *,
    layers: str | int | Sequence[str | int] = "all",
    groups: Column | str | None = None,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    split: Column | str | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    read: str = "mean",
    bos: bool | None = None,
    chat: bool = False,
    reply_only: bool = False,
    method: str = "exact",
    strengths: Sequence[float] = STRENGTHS,
    controls: str | Sequence[str] = "all",
    train_ratio: float = 0.8,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
) -> Report:
    """Fit a probe at each layer of `model` and judge it beside the controls.

    `texts` with a label each are read at the mean of their tokens (`read="last"`: the last one,
    `"first"`: where they begin, [CLS] of encoders), between the special tokens the tokenizer adds by
    itself (`bos` True: BOS, False: none);
    lists of words with a list of labels each (None: not probed) at the last token of each word; or
    give `ProbeData`. `groups` says which texts belong to one document, so that train and test
    share none. Columns are lists, arrays, tensors, Series or Arrow arrays, always read by position.

    `texts` may also be a table (a DataFrame, an Arrow table, a mapping of columns, a list of
    records) or the path of a labelled file, with the columns `text`, `label` and, if there, `group`
    and `split`, or others: `text="statement"`. A `split` (of each text: train, validation or test;
    val, dev, ... are understood) is kept; so are tables, paths, or pairs of texts and labels given as
    `train`, `validation` and `test` in the place of `texts`.

    With `chat` the texts are conversations (lists of objects with `role` and `content`), or a file of
    them, and are written with the model's chat template; with `reply_only` their last replies are
    read. `layers` is `all`, `auto`, or sites.
    Raises UserError for what cannot be probed.
    """
    strengths = tuple(numbers(strengths, "strengths").tolist())
    asked = Asked(method=method, strengths=strengths, controls=chosen_controls(controls), seed=seed)
    _require_known(asked, read, train_ratio)
    if reply_only and not chat:
        raise UserError("reply_only: goes with chat, which says what a reply is")
    texts = _one_of(texts, train, validation, test)
    if not isinstance(texts, ProbeData | str | Path) and labels is None and not _has_names(texts):
        raise UserError(
            "labels: expected one for each text, or a table or ProbeData in the place of texts"
        )
    if not isinstance(model, Model):
        model = open_model(model, device=device, dtype=dtype)
    layers_of(layers, model.n_layers)  # refuses what the model has not, before texts are read
    if isinstance(texts, ProbeData):
        if chat or reply_only:
            raise UserError("chat: goes with texts; probe data already say how they are read")
        data = texts
    else:
        data = _data_of(
            texts, labels, model, groups=groups, text=text, label=label, group=group, split=split,
            bos=bos, chat=chat, reply_only=reply_only, read=read, train_ratio=train_ratio, seed=seed,
        )  # fmt: skip
    found = probe_layers(inputs_of(data.reading(), model, layers, bos=bos), asked)
    for line in (*found.failures, *found.warnings):
        display.notice(line)
    return Report(**found.__dict__)


def _one_of(texts: Any, train: Any, validation: Any, test: Any) -> Any:
    """`texts`, or what is given for each part as a mapping."""
    parts = {"train": train, "validation": validation, "test": test}
    parts = {name: one for name, one in parts.items() if one is not None}
    if not parts:
        if texts is None:
            raise UserError("texts: expected texts with labels, a table, or train= and test=")
        return texts
    if texts is not None:
        raise UserError(f"{', '.join(parts)}: given beside texts; give one or the other")
    if "train" not in parts or len(parts) == 1:
        raise UserError(
            f"{', '.join(parts)}: expected train and, beside it, test or validation or both"
        )
    kinds = {isinstance(one, str | Path) for one in parts.values()}
    if len(kinds) > 1:
        raise UserError(f"{', '.join(parts)}: expected files for all of them, or for none")
    return parts


def _has_names(texts: Any) -> bool:
    """Whether columns of it can be named."""
    return is_table(texts) or isinstance(texts, Mapping)


def _is_files(texts: Any) -> bool:
    """Whether it is a file for each part."""
    return isinstance(texts, Mapping) and isinstance(next(iter(texts.values()), None), str | Path)


def _data_of(
    texts: Any,
    labels: Any,
    model: Model,
    *,
    groups: Any,
    text: str,
    label: str,
    group: str | None,
    split: Any,
    bos: bool | None,
    chat: bool,
    **settings: Any,
) -> ProbeData:
    """The probe data of what `fit` was given, in a file or at hand."""
    named = split if isinstance(split, str) else None
    columns = Columns(text, label, group, named)
    special = sum(map(len, special_tokens(model, bos)))
    if chat:
        template = template_of(model.reads)
        name = str(texts) if isinstance(texts, str | Path) else "texts"
        chosen = Chosen(name, template.dated(template.today), model.reads)
        special, settings["chat"] = len(chosen.front), chosen
        if not isinstance(texts, str | Path) and not _is_files(texts):
            texts, labels, groups, split = of_columns(texts, labels, groups, split, chosen)
    elif is_conversations(texts):
        raise UserError("texts: conversations, lists of objects; they are read with chat=True")
    settings["context_length"] = model.max_length and model.max_length - special
    files: dict[str, Any] = {}
    if _is_files(texts):
        files = {part: one for part, one in texts.items() if part != "train"}
        texts = texts["train"]
    if not isinstance(texts, str | Path):
        return data_of(
            texts, labels, model.reads, groups=groups, split=split, columns=columns, **settings
        )
    for what, given in (("labels", labels), ("groups", groups)):
        if given is not None:
            raise UserError(f"{what}: the file {texts} has its own; name its columns instead")
    if split is not None and named is None:
        raise UserError(f"split: the file {texts} has its own; name its column instead")
    plain = columns == Columns()
    return label_data(texts, model.reads, columns=None if plain else columns, **files, **settings)


def _require_known(asked: Asked, read: str, train_ratio: float) -> None:
    """Refuse values that no model and no texts would go with."""
    if read not in get_args(Read):
        raise UserError(f"read = {read!r}: expected {', '.join(get_args(Read))}")
    if asked.method not in SOLVED:
        raise UserError(
            f"method = {asked.method!r}: expected {' or '.join(SOLVED)}; minibatch and mlp are "
            "trained by steps, with `cutaway probe train`"
        )
    require_ratio(train_ratio)
    for one in asked.strengths:
        if not (math.isfinite(one) and one > 0):
            raise UserError(f"strengths = {one}: expected finite numbers above 0")
    if not len(asked.strengths):
        raise UserError("strengths: expected one or more")


def _text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned text."""
    shown = [
        [display.cell(row[name]) if row[name] is not None else "" for name in columns]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    lines = [columns, *shown]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
