"""A dictionary by its folder, with the model, text or states it goes with: for the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cutaway.activations.store import ActivationStore
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.dictionaries import origin
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model, require_model_at, require_of_model, site_of
from cutaway.evaluations import held_out as judging
from cutaway.evaluations.evaluate import Evaluation
from cutaway.evaluations.known_truth.judging import judge_synthetic
from cutaway.features.reader import read_features
from cutaway.features.table import Features
from cutaway.nets.model import Model, ModelReference
from cutaway.nets.reference import open_model
from cutaway.runs import record
from cutaway.runs.folder import Run
from cutaway.workbench import pipeline


def home(path: Path) -> Path:
    """The folder a dictionary lies in: that of a run named under `runs/`, that of a file."""
    if not path.exists() and (named := Path("runs") / path).is_dir():
        return named
    return path.parent if path.is_file() else path


def opened(
    path: Path,
    model: str | None = None,
    *,
    data: str | None = None,
    activations: Path | None = None,
    feature: int | None = None,
    site: str | None = None,
) -> tuple[Dictionary, Model]:
    """A dictionary and its model: the one named, else the one it was trained on.

    The model computes in the dtype its states had, in the store named or in training. `site` is
    for a dictionary that does not say where it was trained.
    UserError, before anything slow, where these or what else is named do not go together.
    """
    dictionary = Dictionary.load(path, site=site)
    require_of_model(dictionary)
    if data is not None and activations is not None:
        raise UserError("--data and --activations: choose one")
    if feature is not None and not 0 <= feature < dictionary.shape.d_hidden:
        last = dictionary.shape.d_hidden - 1
        raise UserError(f"feature = {feature}: the dictionary has features 0 to {last}")
    dtype = dictionary.metadata.get("model_dtype")
    if activations is not None:
        store = ActivationStore(activations)
        require_model(dictionary, store.reference, store.width)
        store.site(site_of(dictionary))
        origin.compare_store(dictionary, store)
        dtype = store.manifest.get("model_dtype")
    elif dtype is None and (store := store_of(path, None)) is not None:
        dtype = store.manifest.get("model_dtype")
    dtype = dtype or "auto"
    recorded = dictionary.metadata.get("reference")
    if model is None and recorded is None:
        named = origin.model_name(dictionary)
        known = "names no model" if named is None else f"says its model is {named!r}, and not where"
        raise UserError(f"{path}: {known}; say which, with --model")
    if model is not None:
        network = open_model(model, dtype=dtype)
    else:
        reference = ModelReference.from_json(recorded)
        step = "best" if reference.step is None else reference.step
        network = open_model(pipeline.name_of(reference), step=step, dtype=dtype)
    require_model_at(dictionary, network, None)
    if (said := origin.units(dictionary)) is not None:
        notice(said)
    return dictionary, network


def require_judged(
    path: Path,
    model: str | None,
    *,
    data: str | None,
    activations: Path | None,
    site: str | None = None,
) -> None:
    """UserError where `evaluated` could not begin with these."""
    if not _by_truth(Dictionary.load(path, site=site), model, data, activations):
        opened(path, model, data=data, activations=activations, site=site)


def _by_truth(
    dictionary: Dictionary, model: str | None, data: str | None, activations: Path | None
) -> bool:
    """Whether a dictionary is judged by what its synthetic states are made of."""
    named = (model, data, activations)
    return dictionary.metadata.get("synthetic") is not None and not any(named)


def store_of(path: Path, activations: Path | None) -> ActivationStore | None:
    """The store named, else the one a run was trained on where it is still there."""
    if activations is not None:
        return ActivationStore(activations)
    if (home(path) / record.FILE).is_file():
        place = Run.open(home(path)).record.config.get("activations")
        if place is not None and Path(place).is_dir():
            return ActivationStore(place)
    return None


def evaluated(
    path: Path,
    *,
    model: str | None,
    data: str | None,
    activations: Path | None,
    tokens: int,
    site: str | None = None,
) -> Evaluation:
    """The dictionary judged on its own held-out text, or on the text or store named (`judging`).

    One of synthetic states is judged on fresh ones.
    """
    folder = home(path)
    if _by_truth(known := Dictionary.load(path, site=site), model, data, activations):
        history = judging.history_of(folder)
        return judge_synthetic(known, folder, tokens=tokens, history=history)
    dictionary, network = opened(path, model, data=data, activations=activations, site=site)
    store = store_of(path, activations)
    if data is not None:
        return judging.judge_text(dictionary, folder, network, data, tokens=tokens)
    if store is not None:
        return judging.judge(dictionary, folder, store, network, tokens=tokens)
    if (folder / record.FILE).is_file():
        config = Run.open(folder).record.config
        if config.get("streaming"):
            return judging.judge_streamed(dictionary, folder, config, network, tokens=tokens)
        raise UserError(f"{path}: its hidden states are gone; name text with --data")
    raise UserError(f"{path}: names no text or hidden states; give --data or --activations")


def keep(evaluations: Sequence[Evaluation], dictionaries: Sequence[Path], out: Path) -> None:
    """Write every `evaluation.json` under `out`: there, or where they are several in folders."""
    names: list[str] = []
    for path in dictionaries:
        name, number = home(path).absolute().name, 1
        while name in names:
            number += 1
            name = f"{home(path).absolute().name}-{number}"
        names.append(name)
    for found, name in zip(evaluations, names, strict=True):
        found.save(out if len(names) == 1 else out / name)


def read(
    path: Path,
    *,
    model: str | None,
    data: str | None,
    activations: Path | None,
    tokens: int,
    examples: int,
    feature: int | None = None,
    site: str | None = None,
) -> Features:
    """Features over the states it was trained on, else the text; over what is named instead.

    Text is read with --data named, of a run that streamed, and where the store is gone; a
    dictionary that names no text of its training is read over `docstrings`.
    `feature` is one that will be asked for: checked before anything is read.
    """
    dictionary, network = opened(
        path, model, data=data, activations=activations, feature=feature, site=site
    )
    store = store_of(path, activations) if data is None else None
    text: Any = store
    if text is None:
        if data is None:
            data = judging.known(dictionary, home(path)).get("text") or "docstrings"
            notice(f"reading over {data}; --data names other text")
        text = judging.packed_as_trained(dictionary, network, data, tokens)
    return read_features(dictionary, network, text, tokens=tokens, examples=examples)


def most_frequent(
    features: Features, top: int, shown: Callable[[str], str] = str
) -> list[dict[str, Any]]:
    """A line per feature, the most frequent first; `shown` is what becomes of each token. What they
    promote is among it where that is known."""
    order = sorted(range(len(features)), key=lambda index: -features.density[index])[:top]
    rows = []
    for index in order:
        row = features.row(index)
        rows.append(
            {
                "feature": index,
                "density": row["density"],
                "max": row["max"],
                "fires on": " ".join(shown(one["token"]) for one in row["tokens"][:5]),
            }
        )
        if features.promotes:
            promoted = (shown(one["token"]) for one in row["promoted"][:5])
            rows[-1]["promotes"] = " ".join(promoted)
    return rows
