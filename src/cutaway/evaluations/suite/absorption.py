"""First-letter absorption: words whose letter the model knows and a dictionary's letter feature misses.

A feature "begins with s" that stays silent on " snake", because a snake feature took its direction
over, is absorbed there. Re-implemented from the definitions of Chanin et al. 2024
(arXiv 2409.14507) and SAEBench, Karvonen et al. 2025 (arXiv 2503.09532). Where we differ:
- words are tokens after a space, and spellings that differ by case stay in one part of the words;
  published sets hold both " cat" and "cat" and divide tokens;
- the number of split features grows by F1 on validation words, published on the words then scored;
- the examples in a prompt are training words only, published from the whole vocabulary;
- probes are exact balanced L2 logistic regressions (C = 1), published ones are trained by Adam; the
  L1 probe sees features in the dictionary's own scale, so that a model's units do not matter;
- a feature stands for a letter only if its weight is positive, and the first, too, must raise F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model_at
from cutaway.evaluations.suite.letters import (
    EXAMPLES,
    LETTERS,
    TEMPLATE,
    TEST,
    TRAIN,
    VALIDATION,
    Words,
    choose_words,
    prompts,
    word_states,
)
from cutaway.evaluations.suite.splitting import (
    balanced,
    sparse_matrix,
    split_features,
)
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.stats.bootstrap import LEVEL, mean_draws, mean_interval, percentiles
from cutaway.stats.logistic import LogisticFit, fit_logistic

PROPORTION = 0.4  # of the probe's projection that the absorbers carry at least
COSINE = 0.1  # between an absorber and the probe, for the fraction
FULL_COSINE = 0.025  # between the one absorber and the probe, for full absorption
ABSORBERS = 3  # features that may absorb together
READABLE_F1 = 0.6  # above which the model is taken to know a letter
READABLE_LETTERS = 20  # letters it must know
FEWEST_WORDS = 5  # of a letter, in each part, for its probe to be fitted and judged
_CHUNK = 512  # words whose features are held dense


@dataclass(frozen=True)
class Scores:
    """How far each token's concept is absorbed: `fraction` (n,) in [0, 1] and `full` (n,) bool."""

    fraction: Tensor
    full: Tensor


def absorption_scores(
    features: Tensor, projection: Tensor, cosines: Tensor, split: Tensor
) -> Scores:
    """Absorption of a concept on tokens where its probe fires.

        cᵢ = fᵢ cos(p, dᵢ),   M = Σ_split c,   A = Σ of the 3 largest c > 0 with cos ≥ 0.1, not split
        fraction = 0           where P ≤ 0, M ≥ P or A / P < 0.4;       else
                   1           where M ≤ 0;                              else
                   a / (a + M),  a = min(A, P − M)
        full: every split feature 0, and the largest c of all has cos ≥ 0.025 and c / P ≥ 0.4

    `features` f (n, F), what each adds to the state along its unit decoder row dᵢ; `projection`
    P = x·p (n,), p the probe's unit direction, in the same units; `cosines` and `split` (bool)
    (F,) for one concept, or (n, F) for each token's own.

    The rule for 0 goes before the rule for 1, as in SAEBench: where the split features are silent
    or point away, but nothing else carries the direction, the dictionary has lost the concept; no
    feature absorbed it. With no split feature M = 0 and all of them are silent. P ≤ 0 is a token
    whose state lies against the direction (its probe fires by its bias): nothing to be absorbed.
    """
    carried = features * cosines
    main = (carried * split).sum(-1)
    # Features that may be negative cannot absorb by pointing away; so SAEBench.
    absorbing = (carried * (~split & (cosines >= COSINE))).clamp(min=0)
    largest = absorbing.topk(min(ABSORBERS, absorbing.shape[-1]), dim=-1).values.sum(-1)
    taken = torch.minimum(largest, projection - main)
    partial = taken / (taken + main)
    fraction = torch.where(main <= 0, 1.0, partial)
    nothing = (projection <= 0) | (main >= projection) | (largest < PROPORTION * projection)
    fraction = torch.where(nothing, 0.0, fraction)

    top, place = carried.max(-1)
    cosine = cosines.expand_as(carried).gather(-1, place.unsqueeze(-1)).squeeze(-1)
    silent = ~((features != 0) & split).any(-1)
    full = silent & (projection > 0) & (cosine >= FULL_COSINE) & (top >= PROPORTION * projection)
    return Scores(fraction, full)


@torch.no_grad()
def first_letter_absorption(
    dictionary: Dictionary,
    model: Model,
    site: str | int | Site | None = None,
    *,
    words: Sequence[str] | str | Path | None = None,
    template: str | None = TEMPLATE,
    examples: int = EXAMPLES,
    limit: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Absorption of "begins with this letter" in a dictionary of `model` at `site`, as rows.

    Words are single tokens of the vocabulary (those in `words`, at most `limit`); states are those
    of the word's token in a prompt of `examples` spelt words and `template`, or with `template`
    None right after the start of a text: for models that do no tasks in context. One linear probe
    a letter (balanced logistic regression on 80 % of the words) is the truth. The split features
    are those of a k-sparse probe grown on the validation words. Scored (`absorption_scores`) are
    the test words whose own letter's probe fires; a letter's rate is their mean, and the result is
    the mean over letters whose probe's F1 on the test words is above 0.6, with a 95 % interval by
    resampling those letters.

    Rows of task `first_letter`: `absorption_fraction`, `absorption_full`, `split_features` (mean
    number), intervals over letters, and `letters_readable`; of `first_letter.s`, for each letter
    with words enough: `probe_f1` and `probe_true_positives`, `k_sparse_f1` and `split_features`,
    and of the readable ones the two rates, intervals over words. `k` is the number of split
    features. Where fewer than 20 letters are readable a notice says so, and what belongs to the
    dictionary is None or left out: there is no truth to measure it by. A low rate means little
    beside a low `k_sparse_f1`: a dictionary without letter features absorbs none.

    `site` None: where the dictionary was trained. Raises UserError for another model's dictionary
    and for words or prompts the model cannot read.
    """
    place = require_model_at(dictionary, model, site)
    chosen = choose_words(model.reads, words, limit=limit, seed=seed)
    chosen, contexts, after = prompts(chosen, model, template, examples=examples, seed=seed)
    device = dictionary.decoder_weight.device
    x = word_states(model, place, contexts, after, batch_size=batch_size).to(device)

    part, letter = (torch.from_numpy(each).to(device) for each in (chosen.parts, chosen.letters))
    known = _judged(chosen, model)
    begins = one_hot(letter, len(LETTERS)).T[torch.from_numpy(known).to(device)].bool()
    names = [f"first_letter.{LETTERS[each]}" for each in known]
    spelled = np.unique([text.lower() for text in chosen.texts], return_inverse=True)[1]

    test = part == TEST
    probe = _probe(x[~test], begins[:, ~test])
    fires, truth = probe.logits(x[test]) > 0, begins[:, test]
    groups = torch.from_numpy(spelled).to(device)[test]
    f1 = _f1_interval(truth, fires, groups, seed)
    readable = f1[0] > READABLE_F1
    count, hits = int(readable.sum()), fires & truth

    table = _Table(seed)
    overall = dict.fromkeys(("absorption_fraction", "absorption_full", "split_features"))
    if count < READABLE_LETTERS:
        notice(
            f"first letters are not linearly readable in {model.reference.id} at {place}: probes of "
            f"{count} letters have an F1 above {READABLE_F1}, and {READABLE_LETTERS} are needed; "
            "absorption is not measured"
        )
    else:
        mask, sparse_f1 = _split(dictionary, x, begins, part)
        scores = _scored(dictionary, x[test], hits, probe.weight, mask)
        rates = _rates(scores, hits, groups, seed)
        sizes = mask.sum(1)
        overall = {name: _over_letters(each[0][readable], seed) for name, each in rates.items()}
        overall["split_features"] = _over_letters(sizes[readable], seed)
    for name, found in overall.items():
        table.add("first_letter", name, "dictionary", None, found or (None, None, None))
    table.add("first_letter", "letters_readable", "states", None, [count])
    for at, task in enumerate(names):
        table.add(task, "probe_f1", "states", None, [each[at] for each in f1])
        table.add(task, "probe_true_positives", "states", None, [hits[at].sum()])
        if count < READABLE_LETTERS:
            continue
        k = int(sizes[at])
        table.add(task, "k_sparse_f1", "dictionary", k, [sparse_f1[at]])
        table.add(task, "split_features", "dictionary", k, [k])
        for name, each in rates.items() if readable[at] else ():
            table.add(task, name, "dictionary", k, [value[at] for value in each])
    return table.rows


# -- inside --------------------------------------------------------------------------------------


@dataclass
class _Table:
    """Rows as they are added; what is not finite is None."""

    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, task: str, measure: str, subject: str, k: int | None, found: Sequence[Any]
    ) -> None:
        """A value, or a value with the ends of its interval."""
        numbers = [None if each is None or each != each else float(each) for each in found]
        value, low, high = (*numbers, None, None)[:3]
        self.rows.append({
            "evaluation": "absorption", "task": task, "measure": measure, "k": k,
            "subject": subject, "value": value, "low": low, "high": high, "seed": self.seed,
        })  # fmt: skip


def _judged(words: Words, model: Model) -> np.ndarray:
    """The letters with words enough in each part, ascending; UserError for fewer than two."""
    per_part = [np.bincount(words.letters[words.parts == which], minlength=len(LETTERS))
                for which in (TRAIN, VALIDATION, TEST)]  # fmt: skip
    known = (np.stack(per_part) >= FEWEST_WORDS).all(0).nonzero()[0]
    if len(known) < 2:
        raise UserError(
            f"words: {len(words)} single tokens of {model.reference.id}, and {len(known)} letters "
            f"with {FEWEST_WORDS} or more in each part, expected 2; give more words"
        )
    return known


def _probe(x: Tensor, begins: Tensor) -> LogisticFit:
    """A balanced logistic probe for each concept, begins (C, n), on raw states x (n, d).

    C = 1 on states scaled by one number to a variance of d, so that a model's units do not decide
    how much is fitted; weights are those for raw states.
    """
    scale = (x.var(0).sum() / x.shape[1]).clamp(min=1e-24).rsqrt()
    fit = fit_logistic(x * scale, begins.float(), weight=balanced(begins))
    return replace(fit, weight=fit.weight * scale)


def _split(
    dictionary: Dictionary, x: Tensor, begins: Tensor, part: Tensor
) -> tuple[Tensor, Tensor]:
    """Split features (C, F) and their probes' F1 (C,), on features as they add to scaled states."""

    def features(which: int) -> Tensor:
        codes = (dictionary.contributions(rows) for rows in x[part == which].split(_CHUNK))
        return sparse_matrix(each.of(each.values * dictionary.input_scale) for each in codes)

    labels = [begins[:, part == which] for which in (TRAIN, VALIDATION)]
    return split_features(features(TRAIN), labels[0], features(VALIDATION), labels[1])


def _scored(dictionary: Dictionary, x: Tensor, hits: Tensor, probe: Tensor, mask: Tensor) -> Scores:
    """Scores of each hit, in the order of `hits` (C, n) turned to (n, C): a word has one letter."""
    length = dictionary.decoder_weight.norm(dim=1)  # 1, but of another library's dictionary
    rows = dictionary.decoder_weight / length.clamp(min=1e-12)[:, None]
    direction = probe / probe.norm(dim=1, keepdim=True)
    cosines = direction @ rows.T
    word, concept = hits.T.nonzero(as_tuple=True)
    parts = [
        absorption_scores(
            dictionary.encode(x[some]) * length,
            torch.linalg.vecdot(x[some], direction[its]),
            cosines[its],
            mask[its],
        )
        for some, its in zip(word.split(_CHUNK), concept.split(_CHUNK), strict=True)
    ]
    return Scores(torch.cat([p.fraction for p in parts]), torch.cat([p.full for p in parts]))


def _rates(
    scores: Scores, hits: Tensor, groups: Tensor, seed: int
) -> dict[str, tuple[Tensor, ...]]:
    """Each letter's rates, mean over its hits, with low and high by drawing words anew: (C,) each."""
    word, concept = hits.T.nonzero(as_tuple=True)
    weight = one_hot(concept, len(hits)).T
    return {
        name: mean_interval(values.double(), groups[word], weight, seed=seed)
        for name, values in (
            ("absorption_fraction", scores.fraction.expand_as(weight)),
            ("absorption_full", scores.full.expand_as(weight)),
        )
    }


def _f1_interval(
    truth: Tensor, found: Tensor, groups: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """F1 of bool predictions (C, n), with low and high by drawing words anew."""
    both, either, other = (
        mean_draws(values.double(), groups, seed=seed) for values in (truth & found, truth, found)
    )
    value, draws = (2 * b / (e + o) for b, e, o in zip(both, either, other, strict=True))
    return value, *percentiles(draws, LEVEL, groups)


def _over_letters(values: Tensor, seed: int) -> tuple[Tensor, ...]:
    """The mean of letters' values, with low and high by drawing letters anew."""
    return mean_interval(
        values.double(), torch.arange(len(values), device=values.device), seed=seed
    )
