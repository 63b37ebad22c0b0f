"""What taking features out of pooled states does to linear probes: what SCR and TPP share.

A text's state is the mean over its tokens, x̄, and so are its features, f̄. Decoding is linear, so
zeroing the features S at every token and pooling afterwards gives exactly

    x̄ − Σ_{i∈S} f̄ᵢ dᵢ

with d the decoder's rows: what the dictionary does not explain stays in the state, as in SAEBench
(Karvonen et al. 2025, arXiv 2503.09532), which adds the reconstruction error back. A probe w then
sees w·x̄ + b − Σ_{i∈S} f̄ᵢ (w·dᵢ), so that no second pass through model or dictionary is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.evaluations.suite.encoding import encode_texts, unit_decoder
from cutaway.evaluations.suite.sparse_probing import Inputs
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.stats.bootstrap import group_draws
from cutaway.stats.logistic import LogisticFit, fit_logistic

NS = (2, 5, 10, 20, 50, 100, 500)  # features taken out, as published
DRAWS = 8  # random choices of features the control is the mean of
RESAMPLES = 1000
SHARES = (0.7, 0.3)  # of texts for training and test; no document is in both
_UNDEFINED = 0.05  # share of resamples without a score above which there is no interval

Row = dict[str, Any]
Scored = tuple[str, str, int | None, Tensor]  # measure, subject, k, scores (1 + R,)


@dataclass(frozen=True)
class Pooled:
    """Texts as means over the same tokens: `states` (n, d), `features` (n, F) as they add to raw
    states (`Dictionary.contributions`), and the rows (F, d) of length 1 they are written with."""

    states: Tensor
    features: Inputs
    decoder: Tensor

    def __getitem__(self, rows: Tensor) -> Pooled:
        """Some of the texts."""
        return Pooled(self.states[rows], self.features[rows], self.decoder)


def checked_ns(ns: Sequence[int]) -> tuple[int, ...]:
    """How many features are taken out, ascending, each once; UserError unless whole and above 0."""
    if not ns or any(not isinstance(n, int) or n < 1 for n in ns):
        raise UserError(f"ns = {list(ns)}: expected numbers of features to take out, each above 0")
    return tuple(sorted(set(ns)))


def checked_seeds(seed: int | Sequence[int]) -> list[int]:
    """One seed or several as a list; UserError for none."""
    if not (seeds := [seed] if isinstance(seed, int) else list(seed)):
        raise UserError("seed: expected at least one")
    return seeds


def split(task: LabelledTexts, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which texts of a task are for training, which for test, and the groups of the latter."""
    part = task.parts(SHARES, seed)
    train, test = (torch.from_numpy(np.flatnonzero(part == side)) for side in (0, 1))
    return train, test, torch.from_numpy(task.group_ids)[test]


def balance(strata: Tensor, shares: Tensor) -> Tensor:
    """Weights (P, n) with which stratum s has share `shares` (P, S) of the whole.

    Texts of a stratum weigh the same; strata of share 0 are left out, weight 0, and the mean
    weight of the others is 1.
    """
    counts = torch.bincount(strata, minlength=shares.shape[-1]).to(shares.dtype)
    total = (counts * (shares > 0)).sum(-1, keepdim=True)
    return (total * shares / counts.clamp(min=1))[..., strata]


def probes(states: Tensor, labels: Tensor, weight: Tensor) -> LogisticFit:
    """Linear probes (P) for labels (P, n) on states (n, d), each text with its weight (P, n).

    L2 logistic regression, C = 1, on states scaled by one number to a variance of d, so that a
    model's units do not decide how much is fitted; coefficients are those for raw states.
    """
    scale = (states.var(0).sum() / states.shape[1]).clamp(min=1e-24).rsqrt()
    fit = fit_logistic(states * scale, labels, weight=weight)
    return replace(fit, weight=fit.weight * scale)


def effects(
    texts: Pooled, labels: Tensor, balanced: Tensor, weight: Tensor, *, one_sided: bool
) -> Tensor:
    """How much each feature does for each probe, (P, F): probe attribution.

        eᵢ = (mean of f̄ᵢ over label 1 − mean over label 0) · (w·dᵢ)

    over texts with labels (P, n) and weights (P, n) for probes w (P, d). SCR ranks by |e|
    (`one_sided` False); TPP by e with differences below 0 set to 0, so that only features more
    active on the class itself count (Karvonen et al. 2024, arXiv 2411.18895; SAEBench).
    """
    sides = torch.stack([labels, 1 - labels]).to(weight.dtype) * balanced
    shares = sides / sides.sum(-1, keepdim=True)
    difference = texts.features.weighted(shares[0] - shares[1])
    if one_sided:
        difference = difference.clamp(min=0)
    found = difference * (weight @ texts.decoder.T)
    return found if one_sided else found.abs()


def strongest(effect: Tensor, n: int) -> Tensor:
    """The n features of largest effect, strongest first; none of effect exactly 0, so fewer than
    n where n is above the number of those (and of all features), and none whose effect is NaN."""
    effect = effect.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    order = effect.sort(descending=True, stable=True).indices
    return order[effect[order] != 0][:n]


def active(texts: Pooled) -> Tensor:
    """The features that fire on any of the texts, (A,)."""
    ones = texts.states.new_ones(1, len(texts.states))
    return texts.features.weighted(ones)[0].nonzero().view(-1)


def drawn_from(features: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """`count` of these features (A,), drawn without replacement; all of them, if fewer."""
    generator = torch_generator(seed, draw, "random features")
    order = torch.randperm(len(features), generator=generator).to(features.device)
    return features[order[:count]]


def ablated_logits(texts: Pooled, fit: LogisticFit, order: Tensor, ns: Sequence[int]) -> Tensor:
    """Logits (N, P, n) of probes once the first ns[0] < ns[1] < … features of `order` are out.

    Where `order` is shorter than n, all of it is.
    """
    logits = fit.logits(texts.states)
    order = order[: ns[-1]]
    values = texts.features.columns(order).to(logits.dtype)
    along = fit.weight @ texts.decoder[order].to(logits.dtype).T
    found, done = [], 0
    for n in ns:
        logits = logits - along[:, done:n] @ values[:, done:n].T
        found.append(logits)
        done = n
    return torch.stack(found)


def rates(
    correct: Tensor, strata: Tensor, count: int, groups: Tensor, *, resamples: int, seed: int
) -> Tensor:
    """Share of right answers in each of `count` strata: (1 + R, K, S).

    `correct` (K, n) may hold means over draws. Row 0 is over all texts, the others over groups
    (documents) drawn with replacement, as many as there are. Draws that lack a stratum are left
    out, so R ≤ `resamples`; R = 0 where most are, or where there is one group only, which says
    nothing about others.
    """
    times, member = group_draws(groups, resamples, seed)
    size = times.shape[1]
    cell = member * count + strata
    texts = torch.bincount(cell, minlength=size * count).to(times.dtype).view(size, count)
    whole = ((times @ texts) > 0).all(1)
    kept = times[whole] if size > 1 and 2 * int(whole.sum()) > resamples else times[:0]
    times = torch.cat([torch.ones_like(times[:1]), kept])
    correct = correct.to(times.dtype)
    right = correct.new_zeros(len(correct), size * count).index_add_(1, cell, correct)
    right = right.view(len(correct), size, count).movedim(0, -1).reshape(size, -1)
    sums = (times @ right).view(len(times), count, len(correct)).movedim(1, 2)
    return sums / (times @ texts)[:, None]


def interval(scores: Tensor) -> tuple[float | None, float | None, float | None]:
    """Value and 95 % percentile interval of scores (1 + R,), the first over all texts.

    None for what is undefined: the value where that is NaN, and the interval then, too, or where
    more than 5 % of the resamples are NaN.
    """
    value, rest = float(scores[0]), scores[1:]
    defined = rest[rest.isfinite()]
    if not math.isfinite(value):
        return None, None, None
    if not len(rest) or len(defined) < (1 - _UNDEFINED) * len(rest):
        return value, None, None
    low, high = torch.quantile(defined, defined.new_tensor([0.025, 0.975])).tolist()
    return value, low, high


def table(evaluation: str, task: str, seed: int, scores: Iterable[Scored]) -> list[Row]:
    """Rows of an evaluation's table; None for what is undefined."""
    names = ("evaluation", "task", "measure", "k", "subject", "value", "low", "high", "seed")
    return [
        dict(zip(names, (evaluation, task, measure, k, subject, *interval(values), seed)))
        for measure, subject, k, values in scores
    ]


def pooled_tasks(
    dictionary: Dictionary,
    model: Model,
    site: str | int | Site | None,
    tasks: Sequence[LabelledTexts],
    *,
    texts: int,
    seed: int,
    context_length: int | None,
    batch_tokens: int,
) -> Iterator[tuple[LabelledTexts, Pooled]]:
    """Each task, cut to `texts` and to those with a token to read, with its texts pooled.

    One pass over the texts of all tasks, each text once.
    """
    if not tasks:
        raise UserError("tasks: expected at least one")
    tasks = [task.limited(texts, seed) for task in tasks]
    every = list(dict.fromkeys(text for task in tasks for text in task.texts))
    place = {text: index for index, text in enumerate(every)}
    found = encode_texts(
        *(dictionary, model, every),
        site=site,
        context_length=context_length,
        batch_tokens=batch_tokens,
    )
    decoder = unit_decoder(dictionary).cpu()
    pooled = Pooled(found.states, found.features["dictionary"], decoder)
    for task in tasks:
        index = torch.tensor([place[text] for text in task.texts])
        task, index = found.readable(task, index)
        yield task, pooled[index]
