"""Spurious correlation removal (SCR): can the features of an unwanted cue be cut out of a probe?

Texts carry two labels, say profession and gender. A *biased* probe is trained on texts where both
are equal only, so that it cannot tell which it is asked for. The features that matter most to a
probe of the spurious label are zeroed, and the biased probe is scored on the target label over
balanced texts:

    S = (A_ablated − A_base) / (A_oracle − A_base)

A_base is the biased probe's accuracy before, A_oracle that of a probe trained on the target with
the other label balanced. 1: the cue is gone and nothing else; 0: nothing gained; below 0: what was
taken out served the target. Features are zeroed, not set to their mean, so taking out many can move
all texts to one side of the probe: what then says one class of all scores (1/2 − A_base) /
(A_oracle − A_base), a little below 0.

Source: Karvonen et al. 2024 (arXiv 2411.18895) after SHIFT (Marks et al. 2024, arXiv 2403.19647),
as in SAEBench (Karvonen et al. 2025, arXiv 2503.09532). As published: features are ranked by
|difference of mean activations between the spurious classes · (w_spurious·decoder row)| on the
training texts, zero-ablated with the reconstruction error kept, n = 2 … 500; both directions are
worked (either label may be the cue) and the score is that of the direction in which the biased
probe starts lower, so where the cue to remove is the one it relies on. Where we differ:
- probes are L2 logistic regressions (C = 1) that never see a test text; published ones are Adam
  with an L1 penalty, stopped on the test texts;
- the four combinations are weighted to equal shares, published sets are cut to equal sizes;
- n above the number of features takes them all, where the published code refuses;
- both directions starting level gives the mean of the two, where the published code gives none;
- A_oracle ≤ A_base leaves the score undefined (NaN), where the published code divides;
- beside it stands a control: as many features drawn at random from those active.

An audit (Chanin 2026, arXiv 2605.18229) found SCR unreliable for comparing dictionaries, the more
so at large n: read it beside its interval, its control and a measure with a known truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.evaluations.suite.ablation import (
    DRAWS,
    NS,
    RESAMPLES,
    Pooled,
    Row,
    ablated_logits,
    active,
    balance,
    checked_ns,
    checked_seeds,
    drawn_from,
    effects,
    pooled_tasks,
    probes,
    rates,
    split,
    strongest,
    table,
)
from cutaway.evaluations.suite.crossed import CrossedTexts
from cutaway.evaluations.suite.encoding import BATCH_TOKENS
from cutaway.evaluations.suite.sparse_probing import TEXTS
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.stats.logistic import LogisticFit
from cutaway.stats.ties import agreement

ALIGNED = (0, 3)  # combinations 2a + b in which both labels are equal


@dataclass(frozen=True)
class Removal:
    """Scores of one task. First axis: the direction d, target label d, the other one removed.

    Last axis of all but `removed`: over all test texts, then resamples. `score` and `control`
    (2, N, 1 + R): S after the features of the cue, or as many random ones, are out; NaN where
    A_oracle ≤ A_base. `base`, `oracle` (2, 1 + R): accuracies. `removed` (2, N): how many features.
    """

    score: Tensor
    control: Tensor
    base: Tensor
    oracle: Tensor
    removed: Tensor

    def directions(self) -> tuple[int, ...]:
        """The direction that counts: where the biased probe starts lower; both, if level."""
        first, second = self.base[:, 0].tolist()
        return (0, 1) if first == second else (0,) if first < second else (1,)


def removal(
    train: Pooled,
    train_labels: Tensor,
    test: Pooled,
    test_labels: Tensor,
    groups: Tensor,
    *,
    ns: Sequence[int] = NS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Removal:
    """SCR from pooled states and features, both ways; labels (2, n) of 0 and 1, groups (n_test,).

    Resamples draw groups (documents) of the test texts; probes and features stay those of the
    training texts. Raises UserError where a combination of labels has no text in either part.
    """
    ns = checked_ns(ns)
    strata, tested = (_combinations(labels) for labels in (train_labels, test_labels))
    _check(strata, "training")
    _check(tested, "test")
    shares = torch.full((3, 4), 0.25)
    shares[2] = torch.zeros(4).index_fill_(0, torch.tensor(ALIGNED), 0.5)
    weights = balance(strata, shares.to(train.states.device))
    fit = probes(train.states, torch.cat([train_labels, train_labels[:1]]), weights)
    ranking = effects(train, train_labels, weights[:2], fit.weight[:2], one_sided=False)
    biased = _only(fit, 2)
    before = biased.logits(test.states)[0] > 0
    clean = fit.logits(test.states) > 0
    firing = active(train)

    found: list[tuple[Tensor, ...]] = []
    for target in (0, 1):
        truth = test_labels[target].bool()

        def right(order: Tensor, truth: Tensor = truth) -> Tensor:
            return agreement(ablated_logits(test, biased, order, ns)[:, 0], truth)

        order = strongest(ranking[1 - target], ns[-1])
        control = torch.stack(
            [right(drawn_from(firing, len(order), seed, draw)) for draw in range(DRAWS)]
        ).mean(0)
        correct = torch.cat(
            [
                (before == truth).double()[None],
                (clean[target] == truth).double()[None],
                right(order),
                control,
            ]
        )
        share = rates(correct, tested, 4, groups, resamples=resamples, seed=seed)
        base, oracle, *after = share.mean(-1).unbind(1)
        room = (oracle - base).where(oracle > base, math.nan)
        score = (torch.stack(after) - base) / room
        removed = torch.tensor(ns).clamp(max=len(order))
        found.append((score[: len(ns)], score[len(ns) :], base, oracle, removed))
    return Removal(*(torch.stack(parts) for parts in zip(*found)))


@torch.no_grad()
def spurious_correlation_removal(
    dictionary: Dictionary,
    model: Model,
    site: str | int | Site | None,
    tasks: Sequence[CrossedTexts],
    *,
    ns: Sequence[int] = NS,
    seed: int | Sequence[int] = 0,
    texts: int = TEXTS,
    resamples: int = RESAMPLES,
    context_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Row]:
    """SCR of a dictionary of `model` at `site` on texts with two labels, as rows.

    Of each task, for k = each of `ns` features taken out: `scr`, S in the direction that counts,
    of subject `dictionary` and of the control `random_features`. Of each direction, as task
    `name: target without cue`: the same, `features_removed` (fewer than k where no more have an
    effect) and of subject `states` the accuracies `base_accuracy` and `oracle_accuracy`. Each with
    a 95 % interval over test documents drawn again; None where undefined, and a notice says why.

    The first seed decides which texts are drawn (at most `texts`), each of them a split (70 % of
    the texts to train, no document on both sides), the random features and the resamples; all
    share one pass over the texts. `site` None is where the dictionary was trained;
    `context_length` and `batch_tokens` as in `encode_texts`. Raises UserError for settings out of
    range and tasks that cannot be split.
    """
    ns = checked_ns(ns)
    seeds = checked_seeds(seed)
    combined = pooled_tasks(
        *(dictionary, model, site, [task.combined for task in tasks]),
        texts=texts,
        seed=seeds[0],
        context_length=context_length,
        batch_tokens=batch_tokens,
    )
    rows: list[Row] = []
    with progress("removing correlations", len(tasks) * len(seeds), "tasks") as bar:
        for crossed, (task, pooled) in zip(tasks, combined, strict=True):
            labels = torch.from_numpy(crossed.labels_of(task))
            for each in seeds:
                train, test, groups = split(task, each)
                found = removal(
                    *(pooled[train], labels[:, train], pooled[test], labels[:, test], groups),
                    ns=ns,
                    resamples=resamples,
                    seed=each,
                )
                rows += _rows(crossed, found, ns, each)
                bar.advance()
    return rows


def _rows(crossed: CrossedTexts, found: Removal, ns: Sequence[int], seed: int) -> list[Row]:
    """The table of one task and seed."""
    counted = list(found.directions())
    subjects = {"dictionary": found.score, "random_features": found.control}
    rows = table(
        *("scr", crossed.name, seed),
        [
            ("scr", subject, n, scores[counted, place].mean(0))
            for subject, scores in subjects.items()
            for place, n in enumerate(ns)
        ],
    )
    for way, target in enumerate(crossed.names):
        base, oracle = found.base[way], found.oracle[way]
        if way in counted and oracle[0] <= base[0]:
            notice(
                f"{crossed.name}: a probe of {target!r} is right on {float(oracle[0]):.3f} of the "
                f"test texts and the biased one on {float(base[0]):.3f}: nothing to gain, so SCR "
                "is not defined"
            )
        rows += table(
            *("scr", f"{crossed.name}: {target} without {crossed.names[1 - way]}", seed),
            [("base_accuracy", "states", None, base), ("oracle_accuracy", "states", None, oracle)]
            + [
                ("scr", subject, n, scores[way, place])
                for subject, scores in subjects.items()
                for place, n in enumerate(ns)
            ]
            + [
                ("features_removed", "dictionary", n, found.removed[way, place : place + 1])
                for place, n in enumerate(ns)
            ],
        )
    return rows


def _combinations(labels: Tensor) -> Tensor:
    """2a + b of labels (2, n)."""
    return 2 * labels[0].long() + labels[1].long()


def _check(strata: Tensor, part: str) -> None:
    counts = torch.bincount(strata, minlength=4).tolist()
    if 0 in counts:
        first, second = divmod(counts.index(0), 2)
        raise UserError(
            f"spurious correlation removal: no {part} text has labels ({first}, {second}); "
            "each of the four combinations is needed"
        )


def _only(fit: LogisticFit, index: int) -> LogisticFit:
    """One problem of a batch, as a batch of one."""
    at = slice(index, index + 1)
    return LogisticFit(fit.weight[at], fit.bias[at], fit.converged[at], fit.iterations[at])
