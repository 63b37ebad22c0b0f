"""Targeted probe perturbation (TPP): do the features of one class leave the other classes alone?

For m classes of texts, a linear probe tells each from the rest. The features that matter most to
probe i are zeroed, and the accuracy of every probe j is taken again:

    TPP = mean over i of (A_i − A_i,i)  −  mean over i ≠ j of (A_j − A_i,j)

with A_j the accuracy of probe j before and A_i,j once the features of class i are out. High where
a class has features of its own; 0 where the features of one class carry all classes, or where
taking them out does nothing.

Source: Karvonen et al. 2024 (arXiv 2411.18895), as in SAEBench (Karvonen et al. 2025, arXiv
2503.09532). As published: features are ranked by max(0, mean activation on the class − on the
rest) · (w_i·decoder row), so that only those more active on the class come first, zero-ablated with
the reconstruction error kept, n = 2 … 500; accuracies are over balanced texts, half the class and
half the others in equal parts. Where we differ:
- probes are L2 logistic regressions (C = 1) that never see a test text; published ones are Adam
  with an L1 penalty, stopped on the test texts;
- texts are weighted to these shares, published sets are drawn to them;
- n above the number of features takes them all, where the published code refuses;
- two classes are refused: their probes are each other's negative, and TPP is 0 whatever is done;
- where the probes are at chance (the interval of their mean accuracy reaches 1/2) there is nothing
  to perturb, and TPP is undefined (NaN);
- beside it stands a control: as many features drawn at random from those active.

An audit (Chanin 2026, arXiv 2605.18229) found TPP unreliable for comparing dictionaries: read it
beside its interval, its control and a measure with a known truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import track
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.evaluations.suite.ablation import (
    DRAWS,
    NS,
    RESAMPLES,
    Pooled,
    Row,
    Scored,
    ablated_logits,
    active,
    balance,
    checked_ns,
    checked_seeds,
    drawn_from,
    effects,
    interval,
    pooled_tasks,
    probes,
    rates,
    split,
    strongest,
    table,
)
from cutaway.evaluations.suite.encoding import BATCH_TOKENS
from cutaway.evaluations.suite.sparse_probing import TEXTS
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.stats.ties import agreement


@dataclass(frozen=True)
class Perturbation:
    """Accuracies of one task; last axis: over all test texts, then resamples.

    `clean` (m, 1 + R) of each probe; `drops` and `control` (m, m, N, 1 + R): [i, j] what probe j
    loses with the features of class i, or as many random ones, out; `removed` (m, N): how many.
    """

    clean: Tensor
    drops: Tensor
    control: Tensor
    removed: Tensor


def perturbation(
    train: Pooled,
    train_labels: Tensor,
    test: Pooled,
    test_labels: Tensor,
    groups: Tensor,
    *,
    ns: Sequence[int] = NS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Perturbation:
    """TPP from pooled states and features; labels (n,) of 0 … m − 1, groups (n_test,).

    Resamples draw groups (documents) of the test texts; probes and features stay those of the
    training texts. Raises UserError for fewer than three classes, or one without a text in either
    part.
    """
    ns = checked_ns(ns)
    classes = _classes(train_labels, test_labels)
    own = torch.eye(classes, device=train.states.device)
    shares = own / 2 + (1 - own) / (2 * (classes - 1))
    labels = own[:, train_labels]
    weights = balance(train_labels, shares)
    fit = probes(train.states, labels, weights)
    ranking = effects(train, labels, weights, fit.weight, one_sided=True)
    truth = own[:, test_labels].bool()

    def accuracies(correct: Tensor) -> Tensor:
        """(..., m, n) → (..., m, 1 + R), each probe over its balanced shares."""
        flat = correct.reshape(-1, correct.shape[-1])
        share = rates(flat, test_labels, classes, groups, resamples=resamples, seed=seed)
        split = share.view(len(share), *correct.shape[:-1], classes)
        return (split * shares.to(split)).sum(-1).movedim(0, -1)

    def right(order: Tensor) -> Tensor:
        return agreement(ablated_logits(test, fit, order, ns), truth)

    clean = accuracies(agreement(fit.logits(test.states), truth))
    firing = active(train)
    drops, control, removed = [], [], []
    for index in track(range(classes), "perturbing probes", classes, "classes"):
        order = strongest(ranking[index], ns[-1])
        drawn = [drawn_from(firing, len(order), seed, index * DRAWS + d) for d in range(DRAWS)]
        drops.append(clean - accuracies(right(order)))
        control.append(clean - accuracies(torch.stack([right(o) for o in drawn]).mean(0)))
        removed.append(torch.tensor(ns).clamp(max=len(order)))
    return Perturbation(
        clean,
        torch.stack(drops).transpose(1, 2),
        torch.stack(control).transpose(1, 2),
        torch.stack(removed),
    )


def scores(drops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """TPP, what probes lose of their own class and of the others', from drops (m, m, ...)."""
    classes = len(drops)
    own = drops.diagonal(dim1=0, dim2=1).movedim(-1, 0).sum(0)
    others = (drops.sum((0, 1)) - own) / (classes * (classes - 1))
    own = own / classes
    return own - others, own, others


@torch.no_grad()
def targeted_probe_perturbation(
    dictionary: Dictionary,
    model: Model,
    site: str | int | Site | None,
    tasks: Sequence[LabelledTexts],
    *,
    ns: Sequence[int] = NS,
    seed: int | Sequence[int] = 0,
    texts: int = TEXTS,
    resamples: int = RESAMPLES,
    context_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Row]:
    """TPP of a dictionary of `model` at `site` on texts of three classes or more, as rows.

    Of each task, for k = each of `ns` features of a class taken out: `tpp`, and its parts
    `own_drop` and `other_drop`, of subject `dictionary` and of the control `random_features`;
    `features_removed` (mean over classes; fewer than k where no more have an effect). Of the task
    and of each class, as task `name: class`: `probe_accuracy` of subject `states`, and of each
    class its part of `tpp`. Each with a 95 % interval over test documents drawn again; None where
    undefined, and a notice says why.

    The first seed decides which texts are drawn (at most `texts`), each of them a split (70 % of
    the texts to train, no document on both sides), the random features and the resamples; all
    share one pass over the texts. `site` None is where the dictionary was trained;
    `context_length` and `batch_tokens` as in `encode_texts`. Raises UserError for settings out of
    range, tasks of two classes and tasks that cannot be split.
    """
    ns = checked_ns(ns)
    seeds = checked_seeds(seed)
    for task in tasks:
        _check_count(task.name, len(task.classes))
    rows: list[Row] = []
    for task, pooled in pooled_tasks(
        *(dictionary, model, site, tasks),
        texts=texts,
        seed=seeds[0],
        context_length=context_length,
        batch_tokens=batch_tokens,
    ):
        labels = torch.from_numpy(task.label_ids)
        for each in seeds:
            train, test, groups = split(task, each)
            found = perturbation(
                *(pooled[train], labels[train], pooled[test], labels[test], groups),
                ns=ns,
                resamples=resamples,
                seed=each,
            )
            rows += _rows(task, found, ns, each)
    return rows


def _rows(task: LabelledTexts, found: Perturbation, ns: Sequence[int], seed: int) -> list[Row]:
    """The table of one task and seed."""
    accuracy = found.clean.mean(0)
    value, low, _ = interval(accuracy)
    chance = (value if low is None else low) <= 0.5
    if chance:
        notice(
            f"{task.name}: probes tell its classes apart no better than chance ({value:.3f} where "
            "0.5 is chance), so TPP is not defined"
        )
    whole = [("probe_accuracy", "states", None, accuracy)]
    classes: list[list[Scored]] = [[("probe_accuracy", "states", None, c)] for c in found.clean]
    for subject, drops in (("dictionary", found.drops), ("random_features", found.control)):
        drops = drops * math.nan if chance else drops
        parts = dict(zip(("tpp", "own_drop", "other_drop"), scores(drops)))
        for place, n in enumerate(ns):
            whole += [(measure, subject, n, part[place]) for measure, part in parts.items()]
            for index, own in enumerate(classes):
                others = drops[index].sum(0) - drops[index, index]
                each = drops[index, index] - others / (len(drops) - 1)
                own.append(("tpp", subject, n, each[place]))
    removed = found.removed.double().mean(0)
    whole += [("features_removed", "dictionary", n, m[None]) for n, m in zip(ns, removed)]
    rows = table("tpp", task.name, seed, whole)
    for name, own in zip(task.classes, classes, strict=True):
        rows += table("tpp", f"{task.name}: {name}", seed, own)
    return rows


def _classes(train: Tensor, test: Tensor) -> int:
    count = int(max(train.max(), test.max())) + 1
    _check_count("targeted probe perturbation", count)
    for part, labels in (("training", train), ("test", test)):
        counts = torch.bincount(labels, minlength=count).tolist()
        if 0 in counts:
            raise UserError(
                f"targeted probe perturbation: class {counts.index(0)} has no {part} text"
            )
    return count


def _check_count(name: str, count: int) -> None:
    if count < 3:
        raise UserError(
            f"{name}: {count} classes; targeted probe perturbation needs three or more (the probes "
            "of two are each other's negative)"
        )
