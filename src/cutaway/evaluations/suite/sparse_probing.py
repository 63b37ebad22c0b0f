"""Sparse probing: how well the few best features of a dictionary tell classes of texts apart.

A text is the mean of its tokens' features. The k features with the largest |μ₊ − μ₋| over training
texts go into a logistic regression, which is scored on test texts (Gurnee et al. 2023, arXiv
2305.01610; Karvonen et al. 2025, arXiv 2503.09532). A score says little alone, so beside it stand
the same for single neurons of the state, for principal components, for a dictionary of random
directions, and what a probe of the whole state reaches.

What is done, where it is a choice:
- a task of C > 2 classes is C tasks, one class against the others, and their mean; every one is
  balanced in each part, as many texts of the class as of the others, of which each class gives
  equally many, so chance is 0.5;
- training, validation and test share no document (`LabelledTexts.parts`); intervals are
  percentiles over test documents drawn again, the probe held fixed;
- states and features are in units in which E‖x‖² = d, so that C = 1 means the same in any model;
- C of the probe of whole states is the one best on validation texts, the smallest of equals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.base.seeds import numpy_generator
from cutaway.dictionaries.architectures.batch_topk import BatchTopK
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.baselines import PCA
from cutaway.evaluations.suite.encoding import (
    BATCH_TOKENS,
    EncodedTexts,
    Encoder,
    encode_texts,
    sample_states,
)
from cutaway.labelled.texts import LabelledTexts, turns
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.stats.bootstrap import LEVEL, mean_draws, percentiles
from cutaway.stats.logistic import fit_logistic
from cutaway.stats.ties import agreement, largest

KS = (1, 2, 5)
BASELINES = ("states", "neurons", "pca", "random")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the probe of whole states
TEXTS = 5000  # of a task, at most
_STARTED = 2048  # states that decide the random dictionary's mean and threshold
_TRAIN, _VALIDATION, _TEST = 0, 1, 2


class Inputs(Protocol):
    """What a probe may choose from, for each text: (n, `width`), dense or not."""

    width: int

    def weighted(self, weights: Tensor) -> Tensor:
        """weights (C, n) times the matrix, (C, F)."""
        ...

    def columns(self, features: Tensor) -> Tensor:
        """The columns of these different features (K,), dense: (n, K)."""
        ...

    def __getitem__(self, rows: Tensor) -> Inputs:
        """These texts only."""
        ...


class Dense:
    """A dense matrix as inputs."""

    def __init__(self, values: Tensor):
        self.values, self.width = values, values.shape[1]

    def weighted(self, weights: Tensor) -> Tensor:
        return weights @ self.values.to(weights.dtype)

    def columns(self, features: Tensor) -> Tensor:
        return self.values[:, features]

    def __getitem__(self, rows: Tensor) -> Dense:
        return Dense(self.values[rows])


Part = tuple[Inputs, Tensor, Tensor]  # inputs (n, F), labels and chosen (C, n) of one part


def sparse_probing(
    dictionary: Dictionary,
    model: Model,
    site: str | int | Site | None,
    tasks: Sequence[LabelledTexts],
    *,
    ks: Sequence[int] = KS,
    seed: int | Sequence[int] = 0,
    baselines: Sequence[str] = BASELINES,
    texts: int = TEXTS,
    context_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[dict[str, Any]]:
    """Test accuracy of k-sparse probes on each task, for the dictionary and its baselines.

    Rows with `evaluation`, `task` (`name: class` for one class against the others), `measure`
    (accuracy), `k` (None: the whole state), `subject` (dictionary, or of `baselines`: states,
    neurons, pca, random), `value`, `low`, `high` (95 %; None with one test document) and `seed`.
    A seed decides which texts are drawn and the split; several share one pass over the texts.
    `site` None is where the dictionary was trained; `texts` the most a task may have;
    `context_length`, `batch_tokens` as in `encode_texts`. Raises UserError for settings out of
    range and tasks that cannot be split.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    ks = _checked(ks, baselines, dictionary, tasks, seeds)
    tasks = [task.limited(texts, seeds[0]) for task in tasks]
    place = {text: index for index, text in enumerate(dict.fromkeys(_texts(tasks)))}
    reading = {"site": site, "context_length": context_length}

    sample = sample_states(dictionary, model, list(place), seed=seeds[0], **reading)
    encoders: dict[str, Encoder] = {}
    if "random" in baselines:
        encoders["random"] = random_dictionary(dictionary, sample, seeds[0]).encode_sparse
    found = encode_texts(
        *(dictionary, model, list(place)), encoders=encoders, batch_tokens=batch_tokens, **reading
    )
    inputs = inputs_of(found, sample.cpu(), baselines)
    rows: list[dict[str, Any]] = []
    with progress("probing", len(tasks) * len(seeds), "tasks") as bar:
        for task in tasks:
            index = torch.tensor([place[text] for text in task.texts])
            task, index = found.readable(task, index)
            mine = {name: one[index] for name, one in inputs.items()}
            for each in seeds:
                rows += probe_task(mine, task, ks=ks, seed=each)
                bar.advance()
    return rows


def random_dictionary(dictionary: Dictionary, sample: Tensor, seed: int = 0) -> Dictionary:
    """As many random unit rows as the dictionary has, encoder and decoder alike, nothing learnt.

    A feature is x − μ along its row where that exceeds a threshold, one for all, at which as many
    are active per token of the sample (m, d) as in the dictionary.
    """
    some = sample[:: max(1, len(sample) // _STARTED)]
    active = max(1, round(float(dictionary.encode_sparse(some).per_token())))
    shape = DictionaryShape("batch_topk", sample.shape[1], dictionary.shape.d_hidden, k=active)
    made = BatchTopK(shape, seed).to(sample.device)
    made.start(some, active)
    return made


def inputs_of(texts: EncodedTexts, sample: Tensor, baselines: Sequence[str]) -> dict[str, Inputs]:
    """What each subject's probes choose from, in units in which E‖x‖² = d over the sample (m, d)."""
    scale = math.sqrt(sample.shape[1] / float(sample.double().square().sum(1).mean()))
    states = Dense(texts.states * scale)
    found: dict[str, Inputs] = {}
    for name, features in texts.features.items():
        found[name] = features.scaled(scale)
    if "states" in baselines:
        found["states"] = states
    if "neurons" in baselines:
        found["neurons"] = states
    if "pca" in baselines:
        pca = PCA(sample * scale, sample.shape[1])
        found["pca"] = Dense((states.values - pca.mean) @ pca.components)
    return found


def probe_task(
    inputs: Mapping[str, Inputs], task: LabelledTexts, *, ks: Sequence[int] = KS, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of one task and one split, from the inputs (n, F) of its texts by subject.

    The subject `states` is probed whole, every other one by its best k ∈ ks (as many as it has).
    """
    part = task.parts(seed=seed)
    names = task.classes if len(task.classes) > 2 else task.classes[1:]
    first = len(task.classes) - len(names)
    chosen = balanced(task.label_ids, part, seed)[first:]
    labels = torch.from_numpy(task.label_ids) == torch.arange(first, len(task.classes))[:, None]
    sides = [torch.from_numpy(np.flatnonzero(part == index)) for index in range(3)]
    groups = torch.from_numpy(task.group_ids)[sides[_TEST]]
    rows: list[dict[str, Any]] = []
    for subject, matrix in inputs.items():
        parts = [(matrix[side], labels[:, side], chosen[:, side]) for side in sides]
        if subject == "states":
            right = {None: whole_probe(*parts)}
        else:
            right = _sparse(parts[_TRAIN], parts[_TEST], ks)
        for k, values in right.items():
            value, draws = mean_draws(values, groups, parts[_TEST][2], seed=seed)
            scores = [(task.name, value.mean(), draws.mean(0))]
            if len(names) > 1:
                scores += [(f"{task.name}: {n}", v, d) for n, v, d in zip(names, value, draws)]
            for name, score, drawn in scores:
                low, high = percentiles(drawn, LEVEL, groups)
                rows.append(
                    {
                        "evaluation": "sparse_probing",
                        "task": name,
                        "measure": "accuracy",
                        "k": k,
                        "subject": subject,
                        "value": float(score),
                        "low": _defined(low),
                        "high": _defined(high),
                        "seed": seed,
                    }
                )
    return rows


def difference_of_means(inputs: Inputs, labels: Tensor, chosen: Tensor) -> Tensor:
    """μ₊ − μ₋ of every feature over the chosen texts: labels, chosen (C, n) bool → (C, F)."""
    positive, negative = (labels & chosen).float(), (~labels & chosen).float()
    weights = positive / positive.sum(1, keepdim=True) - negative / negative.sum(1, keepdim=True)
    return inputs.weighted(weights)


def balanced(labels: np.ndarray, part: np.ndarray, seed: int) -> Tensor:
    """Which texts class c is told apart on, (C, n) bool: in each part as many of c as of others.

    The others take turns by class, so that each gives equally many as far as it has them.
    """
    classes, parts = int(labels.max()) + 1, int(part.max()) + 1
    order = numpy_generator(seed, 0, "balanced classes").permutation(len(labels))
    chosen = torch.zeros(classes, len(labels), dtype=torch.bool)
    for side in range(parts):
        inside = order[part[order] == side]
        for c in range(classes):
            own = inside[labels[inside] == c]
            others = turns(labels, inside[labels[inside] != c])
            count = min(len(own), len(others))
            chosen[c, own[:count]] = True
            chosen[c, others[:count]] = True
    return chosen


def whole_probe(train: Part, validation: Part, test: Part) -> Tensor:
    """Whether the probe on all columns is right on test texts, (C, n_test) float.

    Trained with every C of `STRENGTHS` at once; the one most often right on validation counts.
    """
    every = torch.arange(train[0].width)
    x, between, held_out = (side[0].columns(every) for side in (train, validation, test))
    labels, chosen = train[1], train[2]
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)
    fit = fit_logistic(x, labels[:, None], c=strengths, weight=chosen[:, None])
    hits = agreement(fit.logits(between), validation[1][:, None]) * validation[2][:, None]
    best = hits.sum(-1).argmax(1)
    logits = fit.logits(held_out)[torch.arange(len(best)), best]
    return agreement(logits, test[1])


# -- inside ----------------------------------------------------------------------------------------


def _sparse(train: Part, test: Part, ks: Sequence[int]) -> dict[int | None, Tensor]:
    """For each k, whether the probe on the k best features is right: (C, n_test) float."""
    _, labels, chosen = train
    strength = difference_of_means(*train).abs()
    _, best = largest(strength, min(max(ks), strength.shape[1]))
    features, at = best.unique(return_inverse=True)
    seen, unseen = (side[0].columns(features) for side in (train, test))
    right: dict[int | None, Tensor] = {}
    for k in ks:
        columns = at[:, :k]
        x, held_out = (side[:, columns].permute(1, 0, 2) for side in (seen, unseen))
        fit = fit_logistic(x, labels, weight=chosen)
        right[k] = agreement(fit.logits(held_out), test[1])
    return right


def _defined(end: Tensor) -> float | None:
    """An interval's end, None where there is none: one document in test says nothing of others."""
    return float(end) if bool(end.isfinite()) else None


def _texts(tasks: Sequence[LabelledTexts]) -> Iterator[str]:
    for task in tasks:
        yield from task.texts


def _checked(
    ks: Sequence[int],
    baselines: Sequence[str],
    dictionary: Dictionary,
    tasks: Sequence[LabelledTexts],
    seeds: Sequence[int],
) -> tuple[int, ...]:
    """ks ascending, each once; UserError for settings out of range."""
    most = min(dictionary.shape.d_hidden, dictionary.shape.d_model)
    if not ks or any(not isinstance(k, int) or not 1 <= k <= most for k in ks):
        raise UserError(f"ks = {list(ks)}: expected whole numbers from 1 to {most}")
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise UserError(f"baselines = {unknown}: expected some of {', '.join(BASELINES)}")
    if not tasks or not seeds:
        raise UserError("tasks, seed: expected at least one of each")
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"tasks: two are called {twice!r}; their rows could not be told apart")
    return tuple(sorted(set(ks)))
