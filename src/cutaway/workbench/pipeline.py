"""From a model to features one can read: extract, train a dictionary per layer, judge, read.

Each step leaves what the next one needs in one folder. What is extracted and trained already is
not done again; judging and reading are.

    OUT/activations/     the store             OUT/<site>/            a dictionary's run
    OUT/<site>/features/ its features, a page  OUT/<site>/evaluation.json
    OUT/figures/         pictures of all       OUT/evaluation.csv
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cutaway.activations.config import ExtractionConfig
from cutaway.activations.extraction import extract, recorded
from cutaway.activations.store import ActivationStore
from cutaway.base import files, hardware
from cutaway.base.display import csv_text, notice, readable_path
from cutaway.base.errors import CutawayError, RunFailed, UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.evaluations.evaluate import FILE as EVALUATION
from cutaway.evaluations.evaluate import Evaluation
from cutaway.evaluations.held_out import judge
from cutaway.features.page import write_page
from cutaway.features.reader import read_features
from cutaway.features.table import Features
from cutaway.nets.model import Model, ModelReference
from cutaway.nets.reference import open_model
from cutaway.nets.sites import Site, parse_sites
from cutaway.runs import checksums, places, record
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.settled import settings_of
from cutaway.studies.train import require_memory, require_same, train

STORE, FEATURES = "activations", "features"
# settings that the steps themselves give to each dictionary
_GIVEN = ("activations", "layer", "streaming", "model", "synthetic")
READ_TOKENS = 1_000_000


def extracted(
    place: Path,
    extraction: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> ActivationStore:
    """The store in `place`, extracted as `extraction` (fields of ExtractionConfig) says.

    With `resume` an extraction that is there goes on, or is taken as it is; fields that are not
    given are those it was begun with. The dictionaries' `settings` are checked first: a mistake in
    them is told before anything slow.
    """
    config = checked(settings)
    going_on = resume and (place / record.FILE).is_file()
    if going_on:
        extraction = {**recorded(place), **extraction}
    else:
        files.require_writable(place)
        Run.require_free(place)
        asked = ExtractionConfig(**extraction)
        model = open_model(asked.model, device=asked.device)
        require_memory([config.sized(model.width_of(model.sites(asked.layers)), asked.tokens)])
    return extract(extraction, place, resume=going_on)


def require_place(out: Path) -> None:
    """Refuse, before anything is done, a folder that holds something else than dictionaries."""
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError:  # every dictionary records where its activations are
        raise UserError(f"--out {readable_path(out)}: expected a path in UTF-8") from None
    places.require_output(
        out, "dictionaries", ("evaluation.csv",), folders=True, mine=places.holds_runs
    )


def require_begun(out: Path, settings: Mapping[str, Any], place: Path | None = None) -> None:
    """UserError where there is nothing to go on with: no run in `out`, no extraction in `place`.

    So too where `settings` would change the path of a dictionary that has begun: told before
    anything is done.
    """
    runs = [Run.open(folder.parent) for folder in sorted(out.glob(f"*/{record.FILE}"))]
    if not runs and (place is None or not (place / record.FILE).is_file()):
        there = "no such folder" if not out.is_dir() else "holds nothing that was begun"
        raise UserError(f"{out}: {there}; without --resume a new one begins there")
    for run in runs:
        if run.record.study == "dictionary":
            before = settings_of(run.record, DictionaryConfig)
            require_same(before, resolve(DictionaryConfig, before, dict(settings)), run.path)


def checked(settings: Mapping[str, Any]) -> DictionaryConfig:
    """The dictionaries' settings, which are the same for all; UserError says what is wrong."""
    for name in _GIVEN:
        if name in settings:
            raise UserError(
                f"{name} = {settings[name]!r}: set for each dictionary by what is trained on, "
                "a model or a store, and --layers"
            )
    config = resolve(DictionaryConfig, {}, dict(settings))
    hardware.device(config.device)
    return config


def pipeline(
    model: str,
    out: str | Path,
    *,
    data: str | None = None,
    layers: str | None = None,
    tokens: int | None = None,
    extraction: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> list[Evaluation]:
    """All of it; returns one evaluation per layer.

    `extraction` and `settings` are further fields of ExtractionConfig and DictionaryConfig; what is
    not given has the former's defaults or, with `resume`, is as the extraction was begun. A
    layer whose training fails does not stop the others. Raises UserError for what cannot work,
    RunFailed where no dictionary could be trained.
    """
    out = Path(out)
    given = {"data": data, "layers": layers, "tokens": tokens}
    named = {name: value for name, value in given.items() if value is not None}
    asked = {"model": model, **named, **(extraction or {})}
    settings, layers = dict(settings or {}), layers or "all"
    require_place(out)
    if resume:
        require_begun(out, settings, out / STORE)
    store = extracted(out / STORE, asked, settings, resume=resume)
    train_layers(store, out, layers, settings, resume=resume)
    return judge_layers(store, out, layers, device=settings.get("device", "auto"))


def train_layers(
    store: ActivationStore,
    out: Path,
    layers: str,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[Path]:
    """A dictionary for each of the store's sites that `layers` names, one run after the other.

    Returns the folders of those that came to their end; one that fails does not stop the others.
    With `resume` runs that have begun go on, and the others get, unless `settings` say otherwise,
    the settings these have. Raises UserError before anything is trained where the request is
    wrong, RunFailed (or, where nothing could begin, UserError) where none came to its end.
    """
    require_memory([checked(settings).sized(store.width, store.rows)])
    sites = chosen(store, layers)
    begun = {}
    for site in sites:
        folder = out / str(site)
        if resume and (folder / record.FILE).is_file():
            begun[site] = Run.open(folder).record.config
        else:
            files.require_writable(folder)
            Run.require_free(folder)
    others = {**next(iter(begun.values()), {}), "extra_steps": []} if begun else {}
    finished: list[Path] = []
    failures: dict[Site, CutawayError] = {}
    for site in sites:
        folder = out / str(site)
        place = {"activations": str(store.path.absolute()), "layer": str(site)}
        try:
            config = resolve(
                DictionaryConfig, {**(begun.get(site) or others), **place}, dict(settings)
            )
            train("dictionary", config, folder, resume=site in begun)
            finished.append(folder)
        except (RunFailed, UserError) as error:
            failures[site] = error
    errors = list(failures.values())
    nothing = bool(errors) and not finished
    if nothing and (len(errors) == 1 or not any(isinstance(one, RunFailed) for one in errors)):
        raise errors[0]  # what was asked for works for no layer
    for site, error in failures.items():
        notice(f"{site}: failed: {error}")
    if nothing:
        raise RunFailed(f"no dictionary could be trained ({', '.join(map(str, failures))})")
    return finished


def judge_layers(
    store: ActivationStore, out: Path, layers: str, *, device: str = "auto"
) -> list[Evaluation]:
    """Evaluate and read the trained dictionaries that `layers` names of a pipeline's folder.

    The summary has also those of other layers that were judged before.
    """
    model = model_of(store, device=device)
    evaluations = []
    for site in chosen(store, layers):
        folder = out / str(site)
        if not (folder / record.FILE).is_file() or Run.open(folder).status != "done":
            continue
        dictionary = Dictionary.load(folder, device=device)
        evaluations.append(judge(dictionary, folder, store, model))
        read(dictionary, folder, store, model)
    if not evaluations:
        raise UserError(f"{out}: no finished dictionary to judge")
    mine = {one.site for one in evaluations}
    before = [
        Evaluation.load(out / str(site))
        for site in store.sites
        if str(site) not in mine and (out / str(site) / EVALUATION).is_file()
    ]
    judged = [*evaluations, *before]
    write_summary(judged, out, target_of([out / one.site for one in judged]))
    checksums.finish(out)
    return evaluations


def target_of(folders: Sequence[Path]) -> float | None:
    """The features per token that runs in these folders were trained for, where it is one number."""
    found = {
        Run.open(folder).record.resolved.get("settings", {}).get("target_l0")
        for folder in folders
        if (folder / record.FILE).is_file()
    }
    return found.pop() if len(found) == 1 else None


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


def chosen(store: ActivationStore, layers: str) -> list[Site]:
    """The sites of a store that a user's `layers` names; `all` are all it has."""
    if layers == "all":
        return list(store.sites)
    wanted = parse_sites(layers, store.reference.n_layers)
    return list(dict.fromkeys(store.site(site) for site in wanted))


def write_summary(
    evaluations: Sequence[Evaluation], out: Path, target: float | None = None
) -> list[Path]:
    """`evaluation.csv` and the pictures of all layers, with their common target L0 where given."""
    from cutaway.evaluations.evaluate import table
    from cutaway.evaluations.pictures import density, ev_against_l0, layer_bars
    from cutaway.figures.look import save

    rows = table(evaluations)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "evaluation.csv"
    files.write_text(path, csv_text(rows))
    paths = [path]
    for name, draw in (
        ("density", density),
        ("explained_variance_by_l0", ev_against_l0),
        ("layers", partial(layer_bars, target=target)),
    ):
        paths.append(save(draw(evaluations), out / "figures" / f"{name}.png"))
    return paths


def name_of(reference: ModelReference) -> str:
    """What `open_model` is given to open it again, at the same revision."""
    if reference.revision is None:
        return reference.id
    return f"{reference.id}@{reference.revision}"


def model_of(store: ActivationStore, name: str | None = None, *, device: str = "auto") -> Model:
    """The model a store is of, where it was or where `name` says, in the dtype it was read in.

    UserError for another one.
    """
    step = "best" if store.reference.step is None else store.reference.step
    how = {"device": device, "dtype": store.manifest.get("model_dtype", "auto")}
    model = None
    if name is not None:
        try:
            model = open_model(name, step=step, **how)
        except UserError:  # perhaps another run, which keeps other steps
            model = open_model(name, **how)
    model = model or open_model(name_of(store.reference), step=step, **how)
    if not store.reference.same_model(model.reference):
        raise UserError(
            f"{store.path}: of {store.reference.id}, and {model.reference.id} has other weights or "
            "another tokenizer"
        )
    return model
