"""From a model to features one can read: extract, train a dictionary per layer, judge, read.

Each step leaves what the next one needs in one folder, and is skipped where it is done already:

    OUT/activations/     the store             OUT/<site>/            a dictionary's run
    OUT/<site>/features/ its features, a page  OUT/<site>/evaluation.json
    OUT/figures/         pictures of all       OUT/evaluation.csv
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cutaway.activations.extraction import extract, pack
from cutaway.activations.store import ActivationStore
from cutaway.activations.stream import ActivationStream
from cutaway.base.display import notice
from cutaway.base.errors import CutawayError, RunFailed, UserError
from cutaway.dictionaries.base import Dictionary
from cutaway.dictionaries.config import DictionaryConfig
from cutaway.dictionaries.evaluation import Evaluation, evaluate
from cutaway.dictionaries.features import Batch, read_features
from cutaway.dictionaries.features_table import Features
from cutaway.dictionaries.page import write_page
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import Site, parse_sites
from cutaway.runs import record
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.train import train

STORE, FEATURES = "activations", "features"
EVAL_TOKENS = 20_000
READ_TOKENS = 1_000_000


def extracted(
    place: Path,
    extraction: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> ActivationStore:
    """The store in `place`, extracted as `extraction` (fields of ExtractionConfig) says.

    With `resume` an extraction that is there goes on, or is taken as it is. The dictionaries'
    `settings` are checked first: a mistake in them is told before anything slow.
    """
    resolve(DictionaryConfig, {}, dict(settings))
    going_on = resume and (place / record.FILE).is_file()
    return extract(extraction, place, resume=going_on)


def pipeline(
    model: str,
    out: str | Path,
    *,
    data: str = "docstrings",
    layers: str = "all",
    tokens: int = 1_000_000,
    extraction: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> list[Evaluation]:
    """All of it; returns one evaluation per layer.

    `extraction` and `settings` are further fields of ExtractionConfig and DictionaryConfig. A
    layer whose training fails does not stop the others. Raises UserError for what cannot work,
    RunFailed where no dictionary could be trained.
    """
    out = Path(out)
    asked = {"model": model, "data": data, "layers": layers, "tokens": tokens}
    settings = dict(settings or {})
    store = extracted(out / STORE, asked | dict(extraction or {}), settings, resume=resume)
    train_layers(store, out, layers, settings, resume=resume)
    return judge_layers(store, out, layers)


def train_layers(
    store: ActivationStore,
    out: Path,
    layers: str,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[Path]:
    """A dictionary for each of the store's sites that `layers` names, one run after the other.

    Raises RunFailed at the end where some failed, naming them.
    """
    folders, failures = [], []
    for site in chosen(store, layers):
        folder = out / str(site)
        folders.append(folder)
        given = {"activations": str(store.path), "layer": str(site), **settings}
        config = resolve(DictionaryConfig, {}, given)
        going_on = resume and (folder / record.FILE).is_file()
        if going_on:
            config = resolve(DictionaryConfig, Run.open(folder).record.config)
        try:
            train("dictionary", config, folder, resume=going_on)
        except RunFailed as error:
            notice(f"{site}: failed: {error}")
            failures.append(str(site))
    if len(failures) == len(folders):
        raise RunFailed(f"no dictionary could be trained ({', '.join(failures)})")
    if failures:
        notice(f"{len(failures)} of {len(folders)} dictionaries failed: {', '.join(failures)}")
    return [folder for folder in folders if folder.name not in failures]


def judge_layers(store: ActivationStore, out: Path, layers: str) -> list[Evaluation]:
    """Evaluate and read every trained dictionary of a pipeline's folder."""
    model = open_model(store.reference.id, step=_step(store))
    evaluations = []
    for site in chosen(store, layers):
        folder = out / str(site)
        if not (folder / record.FILE).is_file() or Run.open(folder).status != "done":
            continue
        dictionary = Dictionary.load(folder)
        evaluations.append(judge(dictionary, folder, store, model))
        read(dictionary, folder, store, model)
    if not evaluations:
        raise UserError(f"{out}: no finished dictionary to judge")
    write_summary(evaluations, out)
    return evaluations


def judge(
    dictionary: Dictionary,
    folder: Path,
    store: ActivationStore,
    model: Model,
    *,
    tokens: int = EVAL_TOKENS,
) -> Evaluation:
    """Evaluate on the store's held-out text, with baselines; leaves `evaluation.json`."""
    site = store.site(dictionary.metadata["site"])
    states = ActivationStream(store, site, 4096)
    history = None
    if (folder / record.FILE).is_file():
        history = Run.open(folder).read("history")
    found = evaluate(
        dictionary,
        model,
        held_out(store, model),
        tokens=tokens,
        training=(states.batch(index) for index in range(16)),
        history=history,
    )
    found.save(folder)
    return found


def read(
    dictionary: Dictionary,
    folder: Path,
    store: ActivationStore,
    model: Model | None,
    *,
    tokens: int = READ_TOKENS,
    examples: int = 20,
) -> Features:
    """Read every feature over the store's tokens; leaves tables and a page in `features/`."""
    features = read_features(dictionary, model, store, tokens=tokens, examples=examples)
    features.save(folder / FEATURES)
    write_page(features, folder / FEATURES)
    return features


def held_out(store: ActivationStore, model: Model, share: float = 0.1) -> Iterator[Batch]:
    """The contexts of a store's text that hold its last `share`, packed as the store's were."""
    about = store.manifest["data"]
    each = about["context_length"] - (about["bos"] is not None)
    length = store.manifest["contexts"] * each
    text = pack(
        model, about["source"], length, about["context_length"], bos=about["bos"] is not None
    )
    if text.fingerprint != about["fingerprint"]:
        raise UserError(f"{about['source']}: has changed since {store.path} was extracted from it")
    try:
        begin = text.border(share)[1]
    except CutawayError:  # one long document: its end
        begin = max(1, int(text.n_contexts * (1 - share)))
    step = max(1, 4096 // text.context_length)
    for start in range(begin, text.n_contexts, step):
        found = text.contexts(start, min(start + step, text.n_contexts))
        yield torch.from_numpy(found.tokens), None, torch.from_numpy(found.documents)


def chosen(store: ActivationStore, layers: str) -> list[Site]:
    """The sites of a store that a user's `layers` names; `all` are all it has."""
    if layers == "all":
        return list(store.sites)
    wanted = parse_sites(layers, store.reference.n_layers)
    return [store.site(site) for site in wanted]


def write_summary(evaluations: Sequence[Evaluation], out: Path) -> list[Path]:
    """`evaluation.csv` and the pictures of all layers."""
    import csv

    from cutaway.dictionaries.evaluation import table
    from cutaway.dictionaries.pictures import density, ev_against_l0, layer_bars
    from cutaway.figures.look import save

    rows = table(evaluations)
    path = out / "evaluation.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    paths = [path]
    for name, draw in (
        ("density", density),
        ("explained_variance_by_l0", ev_against_l0),
        ("layers", layer_bars),
    ):
        paths.append(save(draw(evaluations), out / "figures" / f"{name}.png"))
    return paths


def _step(store: ActivationStore) -> int | str:
    return "best" if store.reference.step is None else store.reference.step
