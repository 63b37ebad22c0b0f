"""How good predictions are: every score of many predictors at once, with intervals over documents.

A predictor gives two log-probabilities of each class. The `even` ones, as if classes were equally
frequent, decide what balanced accuracy, recall and specificity count: a class of 4 % that is
recognised in nine of ten cases counts as recognised. The `natural` ones, with the classes' shares
in text put in, are what one would bet on: they are judged by accuracy, precision, calibration,
Brier score and log loss, and ranked by AUROC and average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.stats import bootstrap, scores, ties

BINS = scores.BINS
FEWEST_DOCUMENTS = 10  # below which intervals draw stretches of text instead
STRETCHES = 50
_NEVER, _ALWAYS, _ABOVE_CHANCE = 0.05, 0.99, 0.1  # recalls that tell of reward hacking


@dataclass(frozen=True)
class Judgement:
    """Scores of predictors, (...,) float64 each; a score that its examples do not define is NaN.

    `n`: examples scored. Of the even decision: `balanced_accuracy`, the mean recall of the classes,
    with its 95 % interval `low` to `high` over documents; `recall` and `specificity`, those of class
    1 and 0 (more than two classes: mean recall, and NaN). Of the natural decision: `accuracy`,
    `precision`, `f1`, of class 1 (mean over classes). Of natural probabilities: `auroc`,
    `average_precision` (mean of each class against the rest), `brier` (`scores.brier`;
    `scores.multiclass_brier`, 0 to 2), `expected_calibration_error` of class 1's probability (of
    the likeliest class's), `log_loss` in nats. `confusion_even` and `confusion_natural` (..., C, C):
    examples by [label, decision]. Means over more than two classes leave out those without examples,
    that of precision those never decided for.
    """

    n: Tensor
    balanced_accuracy: Tensor
    low: Tensor
    high: Tensor
    recall: Tensor
    specificity: Tensor
    accuracy: Tensor
    precision: Tensor
    f1: Tensor
    auroc: Tensor
    average_precision: Tensor
    brier: Tensor
    expected_calibration_error: Tensor
    log_loss: Tensor
    confusion_even: Tensor
    confusion_natural: Tensor

    def decided(self, which: str) -> dict[str, Tensor]:
        """All scores of one decision, `even` or `natural`, by names that say so (`recall_even`)."""
        counts = getattr(self, f"confusion_{which}").to(self.accuracy.dtype)
        return {f"{name}_{which}": value for name, value in _of_decision(counts).items()}

    def rows(self) -> list[dict[str, float | int]]:
        """The scores of each predictor in order, as plain numbers by name; not the confusions.

        Beside the fields, of which some are of one decision and some of the other, those of both
        decisions under names that say which (`DECIDED`).
        """
        names = [one.name for one in fields(self) if not one.name.startswith("confusion")]
        scores = {name: getattr(self, name) for name in names}
        scores |= {**self.decided("even"), **self.decided("natural")}
        names, columns = list(scores), [one.flatten().tolist() for one in scores.values()]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


_DECISIONS = ("balanced_accuracy", "recall", "specificity", "precision", "f1", "accuracy")
DECIDED = tuple(f"{name}_{which}" for which in ("even", "natural") for name in _DECISIONS)


def _of_decision(counts: Tensor) -> dict[str, Tensor]:
    """Scores (...,) of decisions counted by [label, decision], (..., C, C): of class 1 of two, else
    means over the classes (specificity: NaN)."""
    hits = counts.diagonal(dim1=-2, dim2=-1)
    recalls, precisions = hits / counts.sum(-1), hits / counts.sum(-2)
    f1 = 2 * hits / (counts.sum(-1) + counts.sum(-2))
    binary = counts.shape[-1] == 2
    found = {
        "balanced_accuracy": _mean(recalls),
        "recall": recalls[..., 1] if binary else _mean(recalls),
        "specificity": recalls[..., 0] if binary else torch.full_like(hits[..., 0], torch.nan),
        "precision": precisions[..., 1] if binary else _mean(precisions),
        "f1": f1[..., 1] if binary else _mean(f1),
        "accuracy": hits.sum(-1) / counts.sum((-2, -1)),
    }
    return {name: found[name] for name in _DECISIONS}


def judge(
    even: Tensor,
    natural: Tensor,
    label: Tensor,
    documents: Tensor,
    *,
    keep: Tensor | None = None,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> Judgement:
    """Score predictions of m examples: `even` and `natural` log-probabilities (..., m, C).

    `label` (m,) or (..., m) holds classes 0 to C − 1, `documents` (m,) which examples belong together;
    `keep` (m,) or (..., m) leaves examples out. Leading axes broadcast. The interval: documents are
    drawn with replacement, whole, and each draw's recalls are averaged, as the score itself is; where
    it is the wider, that of independent examples counts (Wilson's, for rare classes).
    Raises UserError without examples, for labels out of range and for predictions that are NaN.
    """
    even, natural, label, documents, weight = _parts(even, natural, label, documents, keep)
    classes = even.shape[-1]
    decided = ties.decided(even)
    of_even = scores.class_counts(label, decided, classes, weight)
    of_natural = scores.class_counts(label, ties.decided(natural), classes, weight)
    right, wide = of_even.diagonal(dim1=-2, dim2=-1), of_even.dtype
    recalls = right / of_even.sum(-1)
    low, high = _interval(decided, label, documents, weight, classes, draws, seed)
    hits = of_natural.diagonal(dim1=-2, dim2=-1)
    precisions = hits / of_natural.sum(-2)
    f1 = 2 * hits / (of_natural.sum(-1) + of_natural.sum(-2))
    binary = classes == 2
    ranked = [_ranked(natural, label, weight, one) for one in ([1] if binary else range(classes))]
    p = natural.to(wide).exp()
    if binary:
        of, hit, brier = p[..., 1], label, scores.brier(label, p[..., 1], weight)
    else:
        of, hit = p.max(-1)
        hit, brier = hit == label, scores.multiclass_brier(label, p, weight)
    n = weight.sum(-1)
    return Judgement(
        n=n.long(),
        balanced_accuracy=_mean(recalls),
        low=low,
        high=high,
        recall=recalls[..., 1] if binary else _mean(recalls),
        specificity=recalls[..., 0] if binary else torch.full_like(n, torch.nan),
        accuracy=hits.sum(-1) / n,
        precision=precisions[..., 1] if binary else _mean(precisions),
        f1=f1[..., 1] if binary else _mean(f1),
        auroc=_mean(torch.stack([area for area, _ in ranked], -1)),
        average_precision=_mean(torch.stack([mean for _, mean in ranked], -1)),
        brier=brier,
        expected_calibration_error=scores.expected_calibration_error(hit, of, weight, bins=BINS),
        log_loss=scores.log_loss(label, natural, weight),
        confusion_even=of_even.long(),
        confusion_natural=of_natural.long(),
    )


def drawn_groups(documents: Tensor) -> tuple[Tensor, bool]:
    """The groups (m,) that intervals draw, and whether these are documents.

    Documents, where there are ten or more. Two novels drawn again say next to nothing about a third:
    their interval would be far too narrow. There each document is cut into stretches of neighbouring
    examples (which stand in the order of the text), some fifty in all: the interval is then of these
    documents' text, and does not speak for others.
    """
    names, place, counts = documents.unique(return_inverse=True, return_counts=True)
    if len(names) >= FEWEST_DOCUMENTS:
        return documents, True
    order = place.argsort(stable=True)
    begins = counts.cumsum(0) - counts
    inside = torch.empty_like(place)
    inside[order] = torch.arange(len(place), device=place.device) - begins[place[order]]
    pieces = (STRETCHES * counts / len(place)).round().long().clamp(min=1)
    within = inside * pieces[place] // counts[place]
    return (pieces.cumsum(0) - pieces)[place] + within, False


def one_sided(judgement: Judgement, classes: Sequence[str] | None = None) -> list[str | None]:
    """`predicts only X` for each predictor whose even decision is one class for all examples.

    Such a probe has failed, whatever its accuracy says. None for the others. `classes` are names.
    """
    called = _each(judgement.confusion_even).sum(-2)
    names = classes or [f"class {index}" for index in range(called.shape[-1])]
    return [
        f"predicts only {names[int(row.argmax())]!r}" if int((row > 0).sum()) == 1 else None
        for row in called
    ]


def reward_hacking(judgement: Judgement, classes: Sequence[str] | None = None) -> list[str | None]:
    """A warning for each predictor that comes near to one class for everything; None for the others.

    One class is found in over 99 % of its examples and the others on average in less than 10 % more
    than chance (two classes: under 60 %), or all others are found in under 5 %.
    """
    counts = _each(judgement.confusion_even).double()
    recalls = counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1)
    names = classes or [f"class {index}" for index in range(recalls.shape[-1])]
    return [_hacking(row, names) for row in recalls]


def confusion_rows(judgement: Judgement, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table `confusion` for one predictor: odds (even or natural), label, predicted
    (names of `classes`), count."""
    rows = []
    for odds in ("even", "natural"):
        counts = getattr(judgement, f"confusion_{odds}").reshape(len(classes), len(classes))
        rows += [
            {"odds": odds, "label": label, "predicted": predicted, "count": int(counts[i, j])}
            for i, label in enumerate(classes)
            for j, predicted in enumerate(classes)
        ]
    return rows


def reliability(
    natural: Tensor,
    label: Tensor,
    documents: Tensor,
    bins: int = BINS,
    *,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> list[dict[str, float | int]]:
    """Predicted against observed shares of one predictor: `natural` log-probabilities (m, C).

    Of class 1's probability, or with more than two classes of the likeliest's and whether it is
    right. Rows {bin, count, predicted (mean probability), observed (share), low, high}, by rising
    probability; the interval is over documents. Bins hold equal parts of Σ p(1 − p), the variance of
    what is to be seen, so that all are about as sure: at a prevalence of 4 %, bins of equal width
    would hold nine of ten examples in the first, bins of equal count all probabilities above 15 %
    or so in the last. Equal probabilities share a bin; empty bins are left out.
    """
    natural, label = natural.to(hardware.wide(natural.device)), label.long()
    if len(label) == 0:
        raise UserError("reliability: no examples")
    if natural.shape[-1] == 2:
        p, hit = natural[:, 1].exp(), label == 1
    else:
        best, called = natural.max(-1)
        p, hit = best.exp(), called == label
    ordered = p.sort().values
    spread = (ordered * (1 - ordered)).cumsum(0)
    share = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins
    edges = ordered[torch.searchsorted(spread, share * spread[-1]).clamp(max=len(p) - 1)]
    place = torch.bucketize(p, edges.unique())
    member = (place == place.unique()[:, None]).to(p.dtype)
    observed, low, high = bootstrap.mean_interval(
        hit.to(p.dtype).expand_as(member), documents, member, draws=draws, seed=seed
    )
    counts = member.sum(-1)
    alone = wilson(member @ hit.to(p.dtype), counts)  # none of a hundred seen is not certainly none
    low, high = torch.minimum(low, alone[0]), torch.maximum(high, alone[1])
    columns = (counts.long(), member @ p / counts, observed, low, high)
    names = ("count", "predicted", "observed", "low", "high")
    return [
        {"bin": index, **dict(zip(names, values, strict=True))}
        for index, values in enumerate(zip(*(one.tolist() for one in columns), strict=True))
    ]


def _parts(
    even: Tensor, natural: Tensor, label: Tensor, documents: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Predictions and labels (..., m) of all predictors, what of them counts (..., m) as 0 and 1."""
    if keep is not None and keep.ndim == 1:
        even, natural, label = even[..., keep, :], natural[..., keep, :], label[..., keep]
        documents, keep = documents[keep], None
    m, classes = even.shape[-2:]
    if m == 0:
        raise UserError("judge: no examples to score")
    if natural.shape[-2:] != (m, classes) or label.shape[-1] != m or documents.shape != (m,):
        raise UserError(
            f"judge: predictions {tuple(even.shape)} and {tuple(natural.shape)}, labels "
            f"{tuple(label.shape)}, documents {tuple(documents.shape)} do not go together"
        )
    if bool(((label < 0) | (label >= classes)).any()):
        raise UserError(f"label: expected classes 0 to {classes - 1}")
    kept = torch.ones_like(label, dtype=torch.bool) if keep is None else keep
    lead = torch.broadcast_shapes(even.shape[:-2], natural.shape[:-2], label.shape[:-1],
                                  kept.shape[:-1])  # fmt: skip
    kept = kept.expand(*lead, m)
    sides = []
    for side in (even, natural):
        side = side.expand(*lead, m, classes)
        if bool((side.isnan().any(-1) & kept).any()):
            raise UserError("judge: predictions that are NaN; leave their examples out with keep")
        sides.append(torch.where(kept[..., None], side, 0.0) if keep is not None else side)
    weight = kept.to(hardware.wide(even.device))
    return *sides, label.long().expand(*lead, m), documents, weight


def _combined(hits: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high of the mean of recalls hits/counts (..., C) of independent examples, (...,).

    Wilson's interval of each (1927), put together by the distances of its ends from the recall (Zou &
    Donner 2008). Classes without examples are left out.
    """
    recalls = hits / counts
    low, high = wilson(hits, counts)
    number = (counts > 0).sum(-1)
    down = (recalls - low).square().nansum(-1).sqrt() / number
    up = (high - recalls).square().nansum(-1).sqrt() / number
    mean = _mean(recalls)
    return mean - down, mean + up


def wilson(hits: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval (1927) of the share hits/counts of independent examples; NaN without."""
    z = 1.959963984540054  # of a standard normal: P(|Z| ≤ z) = 0.95
    centre = (hits + z**2 / 2) / (counts + z**2)
    half = z * (hits * (counts - hits) / counts + z**2 / 4).sqrt() / (counts + z**2)
    return centre - half, centre + half


def _interval(
    decided: Tensor,
    label: Tensor,
    documents: Tensor,
    weight: Tensor,
    classes: int,
    draws: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Low and high of the mean recall, (...,); NaN where all examples are of one document.

    The wider of two: by drawing documents, and as if examples were independent (`_combined`). Of ten
    examples that are all recognised every draw says 1, which is no certainty.
    """
    drawn = torch.stack(
        [
            bootstrap.mean_draws(
                decided == label, documents, weight * (label == one), draws=draws, seed=seed
            )[1]
            for one in range(classes)
        ],
        -1,
    )
    low, high = bootstrap.percentiles(_mean(drawn), bootstrap.LEVEL, documents)
    counts = torch.stack([(weight * (label == one)).sum(-1) for one in range(classes)], -1)
    right = (decided == label) * weight
    hits = torch.stack([(right * (label == one)).sum(-1) for one in range(classes)], -1)
    narrow = _combined(hits, counts)
    low, high = torch.minimum(low, narrow[0]), torch.maximum(high, narrow[1])
    names = torch.where(weight > 0, documents, documents.min() - 1)
    first = names.amax(-1, keepdim=True)
    single = ((names == first) | (weight == 0)).all(-1)
    return low.masked_fill(single, torch.nan), high.masked_fill(single, torch.nan)


def _ranked(natural: Tensor, label: Tensor, weight: Tensor, one: int) -> tuple[Tensor, Tensor]:
    """AUROC and average precision of a class against the rest, by its log-odds: probabilities near
    1 would be ties."""
    natural = natural.to(weight.dtype)
    others = [index for index in range(natural.shape[-1]) if index != one]
    odds = natural[..., one] - natural[..., others].logsumexp(-1)
    odds = (odds / ties.TIE).round() * ties.TIE  # what differs by a rounding only counts as equal
    hit = label == one
    return scores.auroc(hit, odds, weight), scores.average_precision(hit, odds, weight)


def _each(confusion: Tensor) -> Tensor:
    """Confusions (..., C, C) of the predictors in order, (P, C, C)."""
    return confusion.reshape(-1, *confusion.shape[-2:])


def _mean(of_classes: Tensor) -> Tensor:
    """Over the last axis; of more than two classes those that are not defined are left out."""
    return of_classes.mean(-1) if of_classes.shape[-1] <= 2 else of_classes.nanmean(-1)


def _hacking(recalls: Tensor, names: Sequence[str]) -> str | None:
    defined = recalls.isfinite()
    best = int(recalls.nan_to_num(-1.0).argmax())
    defined[best] = False
    others = recalls[defined]
    if not len(others):
        return None
    low = 1 / len(recalls) + _ABOVE_CHANCE
    hardly = bool((others < _NEVER).all())
    if not (hardly or (float(recalls[best]) > _ALWAYS and float(others.mean()) < low)):
        return None
    rest = repr(names[1 - best]) if len(recalls) == 2 else "the other classes"
    return (
        f"one-sided (reward hacking): finds {float(recalls[best]):.1%} of {names[best]!r} and "
        f"{float(others.mean()):.1%} of {rest}"
    )
