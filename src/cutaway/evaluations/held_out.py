"""A dictionary judged on text: on what was held out of its own training, or on other text.

Only figures of its own held-out text are kept beside it, in `evaluation.json`; and every evaluation
says whether its text was held out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.activations.extraction import pack
from cutaway.activations.model_stream import ModelStream
from cutaway.activations.store import MANIFEST, ActivationStore, read_manifest
from cutaway.activations.stream import ActivationStream
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.dictionaries import origin
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model, site_of, skips_first
from cutaway.evaluations.evaluate import Evaluation, evaluate
from cutaway.features.reader import Batch
from cutaway.nets.model import Model
from cutaway.runs import record
from cutaway.runs.folder import Run
from cutaway.text.packing import PackedText, asked_for
from cutaway.text.sources import source as source_of_text

if TYPE_CHECKING:
    import pyarrow as pa

EVAL_TOKENS = 20_000
_BATCH = 4096  # states, or tokens, at a time
_FITTED = 16  # batches of training states the baselines see


def judge(
    dictionary: Dictionary,
    folder: Path,
    store: ActivationStore,
    model: Model,
    *,
    tokens: int = EVAL_TOKENS,
) -> Evaluation:
    """Evaluate on the last part of a store's text, with baselines fitted on the rest.

    Where it is the store the dictionary was trained on that part was held out, and the figures are
    kept in `folder`; where it is another of the same text it is said that it may not have been.
    """
    require_model(dictionary, store.reference, store.width)
    about = known(dictionary, folder)
    share = about.get("validation_fraction") or 0.1
    own = about.get("states_sha256") == manifest_sha256(store)
    source = store.manifest["data"]["source"]
    if not own and same_text(source, about.get("text")):
        _warn(source, about["text"])
    open_stream = partial(
        ActivationStream,
        store,
        store.site(site_of(dictionary)),
        _BATCH,
        validation_fraction=share,
        skip_first=skips_first(dictionary),
    )
    with closing(open_stream()) as train, closing(open_stream(part="validation")) as rest:
        found = evaluate(
            dictionary,
            model,
            held_out(store, model, share),
            tokens=tokens,
            training=(_sound(train.batch(index), store) for index in range(_FITTED)),
            states=(_sound(block, store) for block in rest.blocks()),
            history=history_of(folder),
        )
    found = replace(found, text=source, held_out=own or None)
    if own:
        found.save(folder)
    return found


def judge_streamed(
    dictionary: Dictionary,
    folder: Path,
    config: dict[str, Any],
    model: Model,
    *,
    tokens: int = EVAL_TOKENS,
) -> Evaluation:
    """The same for a run that streamed: on its own validation part, built again from its `config`.

    Raises UserError where the text is not what it was.
    """
    about = known(dictionary, folder)
    share = config["validation_fraction"]
    open_stream = partial(
        ModelStream,
        model,
        config["data"],
        site_of(dictionary),
        _BATCH,
        tokens=config["tokens"],
        seed=config["data_seed"],
        context_length=config["context_length"],
        validation_fraction=share,
        skip_first=skips_first(dictionary),
        reading=origin.reading(dictionary, model),
    )
    with closing(open_stream()) as train, closing(open_stream(part="validation")) as rest:
        text = rest.text
        if not text.known_as(about.get("text_sha256", text.fingerprint)):
            raise UserError(f"{config['data']}: has changed since {folder} was trained on it")
        found = evaluate(
            dictionary,
            model,
            _contexts(text, text.border(share)[1]),
            tokens=tokens,
            training=(train.batch(index) for index in range(_FITTED)),
            states=rest.blocks(),
            history=history_of(folder),
        )
    found = replace(found, text=config["data"], held_out=True)
    found.save(folder)
    return found


def judge_text(
    dictionary: Dictionary, folder: Path, model: Model, data: str, *, tokens: int = EVAL_TOKENS
) -> Evaluation:
    """Evaluate on any text, packed as the training's was; nothing is written.

    Where it is the text of the training that is said: its beginning is what was trained on.
    """
    about = known(dictionary, folder)
    trained = same_text(data, about.get("text"))
    if trained:
        _warn(data, about["text"])
    text = packed_as_trained(dictionary, model, data, tokens)
    found = evaluate(dictionary, model, text, tokens=tokens, history=history_of(folder))
    return replace(found, text=data, held_out=False if trained else None)


def packed_as_trained(dictionary: Dictionary, model: Model, data: str, tokens: int) -> PackedText:
    """A source's text in contexts like those of the dictionary's training, where it says which."""
    length = origin.context_length(dictionary, model)
    return pack(model, data, tokens, length, reading=origin.reading(dictionary, model))


def held_out(store: ActivationStore, model: Model, share: float = 0.1) -> Iterator[Batch]:
    """The contexts of a store's text with nothing of its train part, packed as the store's were.

    They begin with the first whole context of the validation part for this `share`.
    """
    about, reading = store.manifest["data"], store.reading
    length = store.manifest["contexts"] * (about["context_length"] - reading.overhead)
    text = pack(model, about["source"], length, about["context_length"], reading=reading)
    if not text.known_as(about["fingerprint"]) and not _asked_for_then(store, model, text):
        raise UserError(f"{about['source']}: has changed since {store.path} was extracted from it")
    begin = _context_from(store, store.split(share)[1].start)
    if begin >= text.n_contexts:
        raise UserError(
            f"{store.path}: the last {share:.0%} holds no whole context to judge on; extract more "
            "tokens"
        )
    yield from _contexts(text, begin)


# -- what a dictionary was trained on --------------------------------------------------------------


def known(dictionary: Dictionary, folder: Path) -> dict[str, Any]:
    """What is known of its training: `text`, `validation_fraction`, `states_sha256` and the rest.

    Its metadata says it; of a run from before they did, its settings and parents do.
    """
    about = dict(dictionary.metadata)
    if (folder / record.FILE).is_file():
        written = Run.open(folder).record
        about.setdefault("validation_fraction", written.config.get("validation_fraction"))
        place = written.config.get("activations")
        if written.config.get("streaming"):
            about.setdefault("text", written.config.get("data"))
        elif place is not None and (Path(place) / MANIFEST).is_file() and "text" not in about:
            about["text"] = read_manifest(Path(place))["data"]["source"]
        for parent in written.parents:
            if parent.get("kind") == "activations":
                about.setdefault("states_sha256", parent.get("sha256"))
    return about


def history_of(folder: Path) -> pa.Table | None:
    """The history of the run in a folder; None where there is no run."""
    return Run.open(folder).read("history") if (folder / record.FILE).is_file() else None


def manifest_sha256(store: ActivationStore) -> str:
    """What tells a store from others, and from itself with more rows."""
    return sha256((store.path / MANIFEST).read_bytes()).hexdigest()


def same_text(one: str, other: str | None) -> bool:
    """Whether a source is another, or a file within it."""
    if other is None:
        return False
    place, whole = (Path(os.path.abspath(name.partition("::")[0])) for name in (one, other))
    return one == other or (place.exists() and (place == whole or whole in place.parents))


def _warn(data: str, trained: str) -> None:
    notice(
        f"{data}: the dictionary was trained on text from {trained}, so this may be what it was "
        "trained on: figures of text it never saw may be worse"
    )


# -- inside ----------------------------------------------------------------------------------------


def _contexts(text: PackedText, begin: int) -> Iterator[Batch]:
    """The contexts of a text from one on."""
    step = max(1, _BATCH // text.context_length)
    for start in range(begin, text.n_contexts, step):
        found = text.contexts(start, min(start + step, text.n_contexts))
        yield torch.from_numpy(found.tokens), None, torch.from_numpy(found.documents)


def _asked_for_then(store: ActivationStore, model: Model, text: PackedText) -> bool:
    """Whether a store's fingerprint is of the tokens its extraction asked for, more than there were.

    So it was recorded before fingerprints were of the tokens that are kept.
    """
    if not (store.path / record.FILE).is_file():
        return False
    tokens = Run.open(store.path).record.config.get("tokens")
    about = store.manifest["data"]
    if not isinstance(tokens, int) or tokens < text.n_tokens:
        return False
    return about["fingerprint"] == asked_for(
        source_of_text(about["source"]), model.reads, tokens, text.payload
    )


def _sound(states: Tensor, store: ActivationStore) -> Tensor:
    if not states.isfinite().all():
        raise UserError(
            f"{store.path}: holds states that are not finite, which no extraction writes: damaged "
            "(`cutaway runs verify` names the shard)"
        )
    return states


def _context_from(store: ActivationStore, row: int) -> int:
    """The first context that begins at this row or later."""
    before = 0
    for shard in store.manifest["shards"]:
        first, last = shard["contexts"]
        if row < before + shard["rows"]:
            if shard["rows_left_out"]:  # where its contexts begin cannot be counted
                return last
            positions = store.positions(before, row)
            return first + int((positions[1:] <= positions[:-1]).sum()) + bool(len(positions))
        before += shard["rows"]
    return store.manifest["contexts"]
