"""A dictionary by its folder, with the model, text or states it goes with: for the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
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

HELD_BYTES = 2_000_000_000  # of dictionaries that sessions keep open between check and use


def home(path: Path) -> Path:
    """The folder a dictionary lies in: that of a run named under `runs/`, that of a file."""
    if not path.exists() and (named := Path("runs") / path).is_dir():
        return named
    return path.parent if path.is_file() else path


class Shared:
    """What the sessions of one command have in common: models by name, and room for dictionaries.

    Dictionaries that were opened stay open up to `HELD_BYTES` in sum; those beyond are read again.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, int | str, str], Model] = {}
        self.held = 0

    def model(self, name: str, step: int | str, dtype: str) -> Model:
        """The model of that name, opened once."""
        key = (name, step, dtype)
        if key not in self._models:
            self._models[key] = open_model(name, step=step, dtype=dtype)
        return self._models[key]


class Session:
    """A dictionary by its folder with the model, store and text it goes with, each opened once.

    `model` and `activations` None: those it was trained on; `data` is other text to judge or read on;
    `site` is for a dictionary that does not say where it was trained. Everything is checked before
    it is used; `check` does so before anything slow. Raises UserError where things do not go together.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        data: str | None = None,
        activations: Path | None = None,
        site: str | None = None,
        shared: Shared | None = None,
    ):
        self.path, self.site = Path(path), site
        self.folder = home(self.path)
        self.data, self.activations = data, activations
        self._model_name, self._shared = model, shared or Shared()
        self._dictionary: Dictionary | None = None

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary."""
        if (found := self._dictionary) is None:
            found = Dictionary.load(self.path, site=self.site)
            size = sum(one.nbytes for one in found.state_dict().values())
            if self._shared.held + size <= HELD_BYTES:
                self._shared.held += size
                self._dictionary = found
        return found

    @cached_property
    def store(self) -> ActivationStore | None:
        """The store named, else the one a run was trained on where it is still there."""
        return store_of(self.path, self.activations)

    @cached_property
    def by_truth(self) -> bool:
        """Whether the dictionary is judged by what its synthetic states are made of."""
        named = (self._model_name, self.data, self.activations)
        return self.dictionary.metadata.get("synthetic") is not None and not any(named)

    @cached_property
    def model(self) -> Model:
        """The model named, else the one the dictionary was trained on, checked against it.

        It computes in the dtype its states had, in the store named or in training.
        """
        dictionary = self.dictionary
        require_of_model(dictionary)
        if self.data is not None and self.activations is not None:
            raise UserError("--data and --activations: choose one")
        recorded = dictionary.metadata.get("reference")
        dtype = self._dtype(dictionary)
        if self._model_name is not None:
            network = self._shared.model(self._model_name, "best", dtype)
        elif recorded is None:
            named = origin.model_name(dictionary)
            known = (
                "names no model" if named is None else f"says its model is {named!r}, and not where"
            )
            raise UserError(f"{self.path}: {known}; say which, with --model")
        else:
            reference = ModelReference.from_json(recorded)
            step = "best" if reference.step is None else reference.step
            network = self._shared.model(pipeline.name_of(reference), step, dtype)
        require_model_at(dictionary, network, None)
        if (said := origin.units(dictionary)) is not None:
            notice(said)
        return network

    def _dtype(self, dictionary: Dictionary) -> str:
        dtype = dictionary.metadata.get("model_dtype")
        if self.activations is not None:
            store = ActivationStore(self.activations)
            require_model(dictionary, store.reference, store.width)
            store.site(site_of(dictionary))
            origin.compare_store(dictionary, store)
            dtype = store.manifest.get("model_dtype")
        elif dtype is None and self.store is not None:
            dtype = self.store.manifest.get("model_dtype")
        return dtype or "auto"

    def require_feature(self, feature: int | None) -> None:
        """UserError for a feature that the dictionary lacks."""
        if feature is not None and not 0 <= feature < self.dictionary.shape.d_hidden:
            last = self.dictionary.shape.d_hidden - 1
            raise UserError(f"feature = {feature}: the dictionary has features 0 to {last}")

    def check(self) -> None:
        """UserError where `evaluation` could not begin."""
        if not self.by_truth:
            _ = self.model

    def evaluation(self, tokens: int) -> Evaluation:
        """The dictionary judged on its own held-out text, or on the text or store named.

        One of synthetic states is judged on fresh ones.
        """
        if self.by_truth:
            history = judging.history_of(self.folder)
            return judge_synthetic(self.dictionary, self.folder, tokens=tokens, history=history)
        dictionary, network, folder = self.dictionary, self.model, self.folder
        if self.data is not None:
            return judging.judge_text(dictionary, folder, network, self.data, tokens=tokens)
        if self.store is not None:
            return judging.judge(dictionary, folder, self.store, network, tokens=tokens)
        if (folder / record.FILE).is_file():
            config = Run.open(folder).record.config
            if config.get("streaming"):
                return judging.judge_streamed(dictionary, folder, config, network, tokens=tokens)
            raise UserError(f"{self.path}: its hidden states are gone; name text with --data")
        raise UserError(
            f"{self.path}: names no text or hidden states; give --data or --activations"
        )

    def features(self, tokens: int, examples: int) -> Features:
        """Features over the states it was trained on, else the text; over what is named instead.

        Text is read with data named, of a run that streamed, and where the store is gone; a
        dictionary that names no text of its training is read over `docstrings`.
        """
        dictionary, network, data = self.dictionary, self.model, self.data
        text: Any = self.store if data is None else None
        if text is None:
            if data is None:
                data = judging.known(dictionary, self.folder).get("text") or "docstrings"
                notice(f"reading over {data}; --data names other text")
            text = judging.packed_as_trained(dictionary, network, data, tokens)
        return read_features(dictionary, network, text, tokens=tokens, examples=examples)


def sessions(paths: Sequence[str | Path], **named: Any) -> list[Session]:
    """A session for each dictionary, with what is `named` for all; they share models."""
    shared = Shared()
    return [Session(path, shared=shared, **named) for path in paths]


def opened(path: str | Path, model: str | None = None, **named: Any) -> tuple[Dictionary, Model]:
    """A dictionary and its model, checked (`Session`)."""
    session = Session(path, model=model, **named)
    network = session.model
    return session.dictionary, network


def store_of(path: Path, activations: Path | None) -> ActivationStore | None:
    """The store named, else the one a run was trained on where it is still there."""
    if activations is not None:
        return ActivationStore(activations)
    if (home(path) / record.FILE).is_file():
        place = Run.open(home(path)).record.config.get("activations")
        if place is not None and Path(place).is_dir():
            return ActivationStore(place)
    return None


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
