"""Data, model and layers that belong together, and the states of a part, checked before use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.activations.reading import of_chat, special_tokens
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.sites import Site, parse_sites, residual
from cutaway.probes.data.examples import PARTS, Examples, ProbeData
from cutaway.probes.states.collecting import TOKENS, States, states_of
from cutaway.probes.states.probe import ProbeAbout
from cutaway.text.reading import PLAIN, Reading

if TYPE_CHECKING:
    pass

_ONE_CLASS = (
    "{name}: {part} holds one class only ({label!r}, {count:,} examples); expected each of {known}"
)


_ROWS = 65_536  # rows that are moved at once


@dataclass(frozen=True)
class Inputs:
    """Probe data as it is read for the task, the model it is read with, and where.

    `forward_tokens`: how many tokens the model reads at once.
    """

    data: ProbeData
    model: Model
    sites: Sequence[Site]
    reading: Reading = PLAIN
    forward_tokens: int = TOKENS

    def states(
        self,
        part: str,
        *,
        own: bool = False,
        model: Model | None = None,
        folder: Path | None = None,
        held: int = 0,
    ) -> tuple[States, Examples]:
        """A part's states and its examples, those with a state that is not finite left out.

        `own` asks for the model's own log-odds of the target; `model` reads with another model; `folder`
        and `held`: see `states_of`.
        UserError where no state is finite.
        """
        examples = self.data.parts[part]
        target = self.data.target_id if own else None
        reader = model or self.model
        what = f"reading {part}" + (" (untrained)" if model is not None else "")
        found = states_of(
            reader,
            examples,
            self.sites,
            reading=self.reading,
            at_start=self.data.read == "first",
            target_id=target,
            batch_tokens=self.forward_tokens,
            label=what,
            folder=folder,
            held=held,
        )
        return finite(found, examples, part)


def inputs_of(
    data: ProbeData,
    model: Model,
    layers: str | int | Sequence[str | int],
    *,
    bos: bool | None = None,
) -> Inputs:
    """The data with the model and the layers named: `auto`, `all`, or what `parse_sites` takes.

    Contexts are read between the special tokens that the tokenizer adds by itself (`bos` None), with
    BOS (True), or without any (False).
    """
    require_tokens(data, model)
    require_classes(data)
    sites = layers_of(layers, model.n_layers)
    model.width_of(sites)  # refuses what the architecture lacks
    reading = _reading(data, model, bos)
    longest = max(int(part.lengths.max()) for part in data.parts.values())
    if model.max_length is not None and longest + reading.overhead > model.max_length:
        most = model.max_length - reading.overhead
        raise UserError(
            f"context_length = {longest}: {model.reference.id} reads at most {model.max_length}"
            f"{reading.counted() or ' tokens'}; make the data with --context-length {most}"
        )
    return Inputs(data, model, sites, reading)


def _reading(data: ProbeData, model: Model, bos: bool | None) -> Reading:
    """How the data's contexts are read; UserError where the model has another chat template."""
    if data.chat is None:
        return Reading(*special_tokens(model, bos), context_length=data.context_length)
    plain = Reading(context_length=data.context_length)
    only = bool(data.source.get("reply_only"))
    found = replace(
        of_chat(model, bos, plain, reply_only=only), chat_date=data.source.get("chat_date")
    )
    if found.chat != data.chat:
        raise UserError(
            f"{data.name}: made with another chat template than that of {model.reference.id}; make "
            "the data with this model (`cutaway probe data MODEL --chat`)"
        )
    return found


def layers_of(layers: str | int | Sequence[str | int], n_layers: int) -> list[Site]:
    """The sites of `auto` (the first layer, the quartiles, the last), or what `parse_sites` takes."""
    if not (isinstance(layers, str) and layers == "auto"):
        return sorted(parse_sites(layers, n_layers))
    last = n_layers - 1
    chosen = [0, last / 4, last / 2, 3 * last / 4, last]
    return [residual(layer) for layer in dict.fromkeys(round(one) for one in chosen)]


def require_tokens(data: ProbeData, model: Model) -> None:
    """Refuse data made with another tokenizer than the model reads with."""
    if model.tokenizer is not None and data.tokenizer.sha256() == model.tokenizer.sha256():
        return
    raise UserError(
        f"{data.name}: made with the tokenizer {data.tokenizer.name!r}, and {model.reference.id} "
        "reads with another; make the data with this model (`cutaway probe data MODEL`)"
    )


def require_classes(data: ProbeData) -> None:
    """Refuse parts without one of the classes."""
    for name in PARTS:
        label = data.parts[name].label
        there = label.unique().tolist()
        if len(there) == len(data.classes):
            continue
        known = ", ".join(map(repr, data.classes))
        if len(there) == 1:
            raise UserError(
                _ONE_CLASS.format(
                    name=data.name,
                    part=name,
                    label=data.classes[there[0]],
                    count=len(label),
                    known=known,
                )
            )
        lacking = next(one for one in range(len(data.classes)) if one not in there)
        raise UserError(
            f"{data.name}: {name} has no example of {data.classes[lacking]!r}; expected each of {known}"
        )


def finite(found: States, examples: Examples, part: str) -> tuple[States, Examples]:
    """States and examples without those that are not finite, which are counted and said."""
    bad = int((~found.finite).sum())
    if not bad:
        return found, examples
    where = ", ".join(
        f"{site}: {int((~state.float().sum(-1).isfinite()).sum()):,}"
        for site, state in zip(found.sites, found.values, strict=True)
    )
    if bad == len(found):
        raise UserError(
            f"{part}: not one of {bad:,} examples has finite states at every site (not finite: "
            f"{where}); a model with broken weights, or one for --model-dtype float32?"
        )
    notice(
        f"{part}: {bad:,} of {len(found):,} examples have states that are not finite ({where}): left out"
    )
    rows = found.finite.nonzero()[:, 0]
    own = None if found.own is None else found.own[rows]
    for state in found.values:  # moved together where they lie, which may be a file
        for start in range(0, len(rows), _ROWS):
            piece = rows[start : start + _ROWS]
            state[start : start + len(piece)] = state[piece]
    values = found.values[:, : len(rows)]
    kept = replace(found, values=values, finite=found.finite[rows], own=own)
    return kept, examples.chosen(rows)


def require_varied(found: States, part: str = "train") -> None:
    """Refuse layers at which every example has the same state: there is nothing to tell apart."""
    for site, state in zip(found.sites, found.values, strict=True):
        if not bool((state[:1] != state).any()):
            raise UserError(
                f"{site}: all {len(found):,} states of {part} are the same; leave the layer out with "
                "--layers"
            )


def label_sets(*sets: Tensor) -> Tensor:
    """Label sets (n,) or (P, n) one under another, (P, n)."""
    return torch.cat([one[None] if one.ndim == 1 else one for one in sets])


def about_of(
    data: ProbeData,
    model: Model,
    site: Site,
    method: str,
    *,
    reading: Reading,
    trained_prior: Sequence[float],
    strength: float | None = None,
) -> ProbeAbout:
    """What a probe of these data carries, without scores."""
    return ProbeAbout(
        reference=model.reference,
        site=str(site),
        method=method,
        task=data.task,
        classes=data.classes,
        prior=data.prevalence,
        trained_prior=tuple(trained_prior),
        target=data.target,
        target_id=data.target_id,
        read="first" if data.read == "first" else "token" if data.of_tokens else "mean",
        dtype=str(model.dtype).removeprefix("torch."),
        strength=strength,
        context_length=data.context_length,
        reading=reading,
        data={"name": data.name, "sha256": data.fingerprint or data.sha256()},
    )
