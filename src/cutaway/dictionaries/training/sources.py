"""Where a dictionary's states come from: a store, a model over a text, or a synthetic truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.model_stream import ModelStream
from cutaway.activations.reading import context_length_of, decided
from cutaway.activations.store import MANIFEST, ActivationStore
from cutaway.activations.stream import ActivationStream
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.dictionaries.training.task import States
from cutaway.nets.sites import Site
from cutaway.text.reading import Reading
from cutaway.text.repeats import Side, shared

SAMPLE = 16_384  # states the start of a dictionary is set from
_EVALUATED = 4096  # held-out states in a batch, at most

AnyStream = ActivationStream | ModelStream | SyntheticStream


@dataclass
class Source:
    """Streams of the states of one or several sites, and what they come from.

    `sites` has one for each dictionary; None where states are synthetic, of no site. `parent` and
    `about` say what the run is made from, and what who judges the dictionary must know.
    """

    train: AnyStream
    validation: AnyStream
    sites: Sequence[Site | None]
    parent: dict[str, Any]
    about: dict[str, Any]
    notices: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    _held: list[list[Tensor]] | None = None

    def name(self, index: int) -> str:
        """What dictionary `index` is of, for messages."""
        site = self.sites[index]
        return str(self.parent["id"] if site is None else site)

    @property
    def places(self) -> list[int]:
        """Which of the streams' sites each dictionary takes."""
        distinct = list(dict.fromkeys(self.sites))
        return [distinct.index(site) for site in self.sites]

    def states(self, index: int) -> States:
        """The training states of dictionary `index`."""
        return _OneSite(self.train, self.places[index])

    def sample(self, index: int) -> Tensor:
        """The first of them, at most 16,384: what its start is set from."""
        states, batches, count = self.states(index), [], 0
        while count < min(SAMPLE, states.rows):
            batches.append(states.batch(len(batches)).float())
            if not len(batches[-1]):
                raise UserError(f"{self.name(index)}: an empty batch of states; nothing to learn")
            count += len(batches[-1])
        return torch.cat(batches)[:SAMPLE]

    def mean_squared_norm(self, index: int) -> float:
        """E‖x‖² of its training states."""
        if isinstance(self.train, SyntheticStream):
            return self.train.mean_squared_norm()
        return self.train.mean_squared_norm(self.sites[index])

    def held_out(self, index: int, tokens: int) -> list[Tensor]:
        """Its first `tokens` held-out states, in batches; read once for all sites."""
        if self._held is None:
            self._held = _held_out(self.validation, max(self.places) + 1, tokens)
        return self._held[self.places[index]]


def open_source(configs: Sequence[DictionaryConfig]) -> Source:
    """The streams of these configs: of one site, or where theirs differ of all of them."""
    first = configs[0]
    if first.synthetic is not None:
        return _synthetic(configs)
    if first.streaming:
        return _from_model(configs)
    if first.activations is None:
        raise UserError(
            "activations: needed, a folder `cutaway extract` made (or streaming, or synthetic)"
        )
    return _from_store(configs)


def _from_store(configs: Sequence[DictionaryConfig]) -> Source:
    first = configs[0]
    store = ActivationStore(first.activations)
    sites = [_site(store, config.layer) for config in configs]
    distinct = list(dict.fromkeys(sites))
    chosen = {"sites": distinct} if len(distinct) > 1 else {"site": distinct[0]}
    open_stream = partial(
        ActivationStream,
        store,
        **chosen,
        seed=first.data_seed,
        skip_first=first.skip_first,
        validation_fraction=first.validation_fraction,
    )
    rows = open_stream(batch_size=1).rows
    batch_size = first.sized(store.width, rows).batch_size
    digest = sha256((store.path / MANIFEST).read_bytes()).hexdigest()
    text = store.manifest["data"]
    split = store.split(first.validation_fraction)
    unfinished = f"{store.path}: its extraction has not ended; {store.rows:,} rows are there"
    return Source(
        train=open_stream(batch_size=batch_size),
        validation=open_stream(batch_size=min(_EVALUATED, first.eval_tokens), part="validation"),
        sites=sites,
        parent={
            "kind": "activations",
            "id": str(first.activations),
            "sha256": digest,
            **_stored(store.reference.quantisation),
        },
        about={
            "reference": store.reference.to_json(),
            **_reading(first),
            "text": text["source"],
            "text_sha256": text["fingerprint"],
            "context_length": text["context_length"],
            "bos": text.get("bos") is not None,
            "reading": _with(store.reading, first).to_json(),
            "model_dtype": store.manifest.get("model_dtype", "auto"),
            "states_sha256": digest,
        },
        notices=[
            *([] if store.complete else [unfinished]),
            *_repeated(*(_side(store, rows) for rows in split), text["source"]),
        ],
    )


def _from_model(configs: Sequence[DictionaryConfig]) -> Source:
    from cutaway.nets.reference import open_model

    first = configs[0]
    if first.model is None:
        raise UserError("model: needed where streaming")
    model = open_model(first.model, device=first.device)
    sites = [model.site(config.layer) for config in configs if config.layer is not None]
    if len(sites) < len(configs):
        raise UserError("layer: needed where streaming (6, embed, mlp.6, ...)")
    distinct = list(dict.fromkeys(sites))
    reading = decided(
        model,
        first.data,
        context_length=context_length_of(model, first.context_length),
        bos=first.bos,
        separator=first.separator,
        skip_first=first.skip_first,
        chat=first.chat,
        reply_only=first.reply_only,
    )
    open_stream = partial(
        ModelStream,
        model,
        first.data,
        distinct if len(distinct) > 1 else distinct[0],
        tokens=first.tokens,
        seed=first.data_seed,
        context_length=first.context_length,
        validation_fraction=first.validation_fraction,
        skip_first=first.skip_first,
        reading=reading,
    )
    rows = open_stream(batch_size=1).rows
    batch_size = first.sized(model.width_of(model.sites(sites)), rows).batch_size
    reference = model.reference
    train = open_stream(batch_size=batch_size)
    end, begin = train.text.border(first.validation_fraction)
    sides = train.text.side(0, end), train.text.side(begin, train.text.n_contexts)
    return Source(
        train=train,
        validation=open_stream(batch_size=min(_EVALUATED, first.eval_tokens), part="validation"),
        sites=sites,
        parent={
            "kind": "model",
            "id": reference.id,
            "sha256": reference.weights_sha256,
            **_stored(reference.quantisation),
        },
        about={
            "reference": reference.to_json(),
            **_reading(first),
            "text": first.data,
            "text_sha256": train.text.fingerprint,
            "context_length": train.text.context_length,
            "bos": bool(reading.prefix),
            "reading": reading.to_json(),
            "model_dtype": str(model.dtype).removeprefix("torch."),
        },
        notices=_repeated(*sides, first.data),
        found={} if first.chat else {"separator": reading.separator},
    )


def _side(store: ActivationStore, rows: range) -> Side:
    """The tokens of some rows of a store with their documents."""

    def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        at = rows.start + start, rows.start + stop
        return store.tokens(*at).numpy(), store.documents(*at).numpy().astype(np.int64)

    return Side(len(rows), read)


def _repeated(train: Side, held_out: Side, name: str) -> list[str]:
    """A notice where documents of the held-out part, or near copies of them, are trained on."""
    lines = shared(train, held_out).described(name, "held-out")
    for line in lines:
        notice(line)
    return lines


def _synthetic(configs: Sequence[DictionaryConfig]) -> Source:
    first, truth = configs[0], configs[0].truth
    open_stream = partial(SyntheticStream, truth, seed=first.data_seed)
    batch_size = first.sized(truth.width, first.tokens).batch_size
    settings = {**truth.to_json(), "data_seed": first.data_seed}
    digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    parent = {"kind": "synthetic", "id": truth.kind, "sha256": digest}
    return Source(
        train=open_stream(batch_size, rows=first.tokens),
        validation=open_stream(
            min(_EVALUATED, first.eval_tokens), rows=first.eval_tokens, part="validation"
        ),
        sites=[None] * len(configs),
        parent={**parent, "settings": settings},
        about={"reference": None, "positions": "all", "synthetic": settings},
    )


def _with(reading: Reading, config: DictionaryConfig) -> Reading:
    """A store's reading as a dictionary trains on it."""
    return replace(reading, skip_first=config.skip_first)


def _stored(quantisation: str | None) -> dict[str, Any]:
    """How the model's weights were stored, for the record of what it was trained on."""
    return {} if quantisation is None else {"quantisation": quantisation}


def _reading(config: DictionaryConfig) -> dict[str, Any]:
    """Which states of a text are read."""
    return {
        "positions": "without 0" if config.skip_first else "all",
        "validation_fraction": config.validation_fraction,
    }


def _site(store: ActivationStore, layer: str | None) -> Site:
    if layer is not None:
        return store.site(layer)
    if len(store.sites) > 1:
        there = ", ".join(map(str, store.sites))
        raise UserError(f"layer: which one? {store.path} holds {there}")
    return store.sites[0]


class _OneSite:
    """One site's states of a stream of several."""

    def __init__(self, stream: AnyStream, place: int):
        self.stream, self.place = stream, place
        self.batch_size, self.width, self.rows = stream.batch_size, stream.width, stream.rows

    def batch(self, index: int) -> Tensor:
        states = self.stream.batch(index)
        return states[self.place] if states.ndim == 3 else states


def _held_out(stream: AnyStream, sites: int, tokens: int) -> list[list[Tensor]]:
    """The first `tokens` held-out states of each of the stream's sites, in batches."""
    found: list[list[Tensor]] = [[] for _ in range(sites)]
    count = 0
    for block in stream.blocks():
        states = (block if block.ndim == 3 else block[None])[:, : tokens - count]
        for own, one in zip(found, states, strict=True):
            own.append(one.clone())
        count += states.shape[1]
        if count >= tokens:
            break
    return found
