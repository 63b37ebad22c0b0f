"""Scores of predictions, batched over leading axes and weighted; scikit-learn's definitions.

Everywhere: labels y (..., n) of 0 and 1 (or bool), n samples on the last axis, leading axes that
broadcast, `weight` (..., n) ≥ 0 or None for ones; results (...,) in float64. A score that its
data do not define is NaN, never 0 or 0.5: each function says when. Weights (draws, n) of a
resampling (`bootstrap`) give the scores of all draws at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.stats.given import tensors

BINS = 15


@dataclass(frozen=True)
class Confusion:
    """Weights of true positives, false positives, false and true negatives, (...,) each."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    def accuracy(self) -> Tensor:
        """(tp + tn) / all; NaN without samples."""
        return (self.tp + self.tn) / (self.tp + self.fp + self.fn + self.tn)

    def precision(self) -> Tensor:
        """tp / (tp + fp): of what was called positive, the share that is; NaN if nothing was."""
        return self.tp / (self.tp + self.fp)

    def recall(self) -> Tensor:
        """tp / (tp + fn): of the positives, the share found; NaN without positives."""
        return self.tp / (self.tp + self.fn)

    def specificity(self) -> Tensor:
        """tn / (tn + fp): of the negatives, the share left alone; NaN without negatives."""
        return self.tn / (self.tn + self.fp)

    def balanced_accuracy(self) -> Tensor:
        """(recall + specificity) / 2: 0.5 by chance; NaN where a class is missing."""
        return (self.recall() + self.specificity()) / 2

    def f1(self) -> Tensor:
        """2 tp / (2 tp + fp + fn); NaN where there are no positives and none were called so."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)


@tensors("y", "predicted", "weight")
def confusion(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Confusion:
    """The four counts of labels y against predictions (..., n) of 0 and 1."""
    _require_lengths(y, predicted=predicted, weight=weight)
    y, predicted = _binary(y, "y"), _binary(predicted, "predicted")
    s = _weight(weight, y)

    def total(chosen: Tensor) -> Tensor:
        return (s * chosen).sum(-1)

    return Confusion(
        tp=total(y & predicted),
        fp=total(~y & predicted),
        fn=total(y & ~predicted),
        tn=total(~y & ~predicted),
    )


@tensors("y", "predicted", "weight")
def accuracy(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ s·[y = ŷ] / Σ s, for any number of classes; NaN without samples."""
    _require_lengths(y, predicted=predicted, weight=weight)
    s = _weight(weight, y)
    right = y == predicted
    return (s * right).sum(-1) / s.expand_as(s * right).sum(-1)


@tensors("y", "predicted", "weight")
def balanced_accuracy(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of recall and specificity (`Confusion.balanced_accuracy`)."""
    return confusion(y, predicted, weight).balanced_accuracy()


@tensors("y", "predicted", "weight")
def precision(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """`Confusion.precision`."""
    return confusion(y, predicted, weight).precision()


@tensors("y", "predicted", "weight")
def recall(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """`Confusion.recall`."""
    return confusion(y, predicted, weight).recall()


@tensors("y", "predicted", "weight")
def specificity(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """`Confusion.specificity`."""
    return confusion(y, predicted, weight).specificity()


@tensors("y", "predicted", "weight")
def f1(y: Tensor, predicted: Tensor, weight: Tensor | None = None) -> Tensor:
    """`Confusion.f1`."""
    return confusion(y, predicted, weight).f1()


@tensors("y", "score", "weight")
def auroc(y: Tensor, score: Tensor, weight: Tensor | None = None) -> Tensor:
    """P(score of a positive > score of a negative) + ½ P(equal): the area under the ROC curve.

    By trapezia between distinct scores, so ties count half. NaN where a class is missing or a
    score is NaN.
    """
    true, false = _curve(y, score, weight)
    height = (true[..., 1:] + true[..., :-1]) / 2
    area = (height * false.diff(dim=-1)).sum(-1)
    return _where_finite(score, area / (true[..., -1] * false[..., -1]))


@tensors("y", "score", "weight")
def average_precision(y: Tensor, score: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ (Rᵢ − Rᵢ₋₁) Pᵢ over distinct scores from the highest down, without interpolation.

    Chance is the share of positives. NaN without positives or where a score is NaN.
    """
    true, false = _curve(y, score, weight)
    called = true + false
    precise = torch.where(called > 0, true / called, 0.0)
    area = (true.diff(dim=-1) * precise[..., 1:]).sum(-1)
    return _where_finite(score, area / true[..., -1])


@tensors("y", "probability", "weight")
def brier(y: Tensor, probability: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ s (p − y)² / Σ s, p the probability of class 1; NaN without samples."""
    _require_lengths(y, probability=probability, weight=weight)
    y = _binary(y, "y")
    error = (probability.to(hardware.wide(y.device)) - y.to(hardware.wide(y.device))).square()
    s = _weight(weight, y)
    return (s * error).sum(-1) / s.expand_as(s * error).sum(-1)


@tensors("y", "probability", "weight")
def expected_calibration_error(
    y: Tensor, probability: Tensor, weight: Tensor | None = None, *, bins: int = BINS
) -> Tensor:
    """Σ_b (n_b / n)·|share of positives in b − mean p in b|, b bins of equal width over [0, 1].

    Of the probability of class 1 (Naeini et al. 2015), not of the larger one. An empty bin adds
    nothing. NaN without samples or where a probability is NaN.
    """
    if bins < 1:
        raise UserError(f"bins = {bins}: expected 1 or more")
    _require_lengths(y, probability=probability, weight=weight)
    y, wide = _binary(y, "y"), hardware.wide(y.device)
    s, y, p = torch.broadcast_tensors(_weight(weight, y), y.to(wide), probability.to(wide))
    edges = torch.linspace(0, 1, bins + 1, dtype=wide, device=y.device)[1:-1]
    place = torch.bucketize(p.contiguous(), edges)  # a bin holds its upper edge
    gaps = s.new_zeros(*s.shape[:-1], bins).scatter_add_(-1, place, s * (y - p))
    return gaps.abs().sum(-1) / s.sum(-1)


@tensors("y", "predicted", "weight")
def class_counts(
    y: Tensor, predicted: Tensor, classes: int, weight: Tensor | None = None
) -> Tensor:
    """Weight of samples of each label called each class, (..., classes, classes): [label, called]."""
    _require_lengths(y, predicted=predicted, weight=weight)
    y, predicted = _classes(y, "y", classes), _classes(predicted, "predicted", classes)
    s, place = torch.broadcast_tensors(_weight(weight, y), y * classes + predicted)
    counts = s.new_zeros(*s.shape[:-1], classes * classes).scatter_add_(-1, place, s)
    return counts.unflatten(-1, (classes, classes))


@tensors("y", "log_probability", "weight")
def log_loss(y: Tensor, log_probability: Tensor, weight: Tensor | None = None) -> Tensor:
    """−Σ s log p_y / Σ s in nats: labels y (..., n) of 0 to C − 1, log p (..., n, C).

    Infinite where a label was given no probability at all; NaN without samples.
    """
    wide = log_probability.to(hardware.wide(y.device))
    _require_lengths(y, log_probability=wide[..., 0], weight=weight)
    y = _classes(y, "y", wide.shape[-1])
    lost = -wide.gather(-1, y.expand(wide.shape[:-1])[..., None])[..., 0]
    s = _weight(weight, y).expand(lost.shape)
    return torch.where(s > 0, s * lost, 0.0).sum(-1) / s.sum(-1)


@tensors("y", "probability", "weight")
def multiclass_brier(y: Tensor, probability: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ s Σ_k (p_k − [y = k])² / Σ s: labels y (..., n) of 0 to C − 1, p (..., n, C).

    0 to 2 (Brier 1950); for two classes it is twice `brier`. NaN without samples.
    """
    wide = probability.to(hardware.wide(y.device))
    _require_lengths(y, probability=wide[..., 0], weight=weight)
    y = _classes(y, "y", wide.shape[-1]).expand(wide.shape[:-1])
    error = (wide - torch.nn.functional.one_hot(y, wide.shape[-1])).square().sum(-1)
    s = _weight(weight, y).expand(error.shape)
    return (s * error).sum(-1) / s.sum(-1)


def _curve(y: Tensor, score: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight of positives and of negatives at or above each score, highest first, from 0:
    (..., n + 1), where a tie's members all hold the value at its end."""
    _require_lengths(y, score=score, weight=weight)
    y = _binary(y, "y")
    order = score.argsort(-1, descending=True)
    ranked = score.gather(-1, order)
    n = score.shape[-1]
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[..., :-1] = ranked[..., 1:] != ranked[..., :-1]
    index = torch.arange(n, device=score.device).expand(score.shape)
    end = torch.where(last, index, n).flip(-1).cummin(-1).values.flip(-1)
    s = _weight(weight, y)
    sides = []
    for side in (s * y, s * ~y):
        side, at, until = torch.broadcast_tensors(side, order, end)
        total = side.gather(-1, at).cumsum(-1).gather(-1, until)
        sides.append(torch.nn.functional.pad(total, (1, 0)))
    return sides[0], sides[1]


def _where_finite(score: Tensor, value: Tensor) -> Tensor:
    return torch.where(score.isnan().any(-1), torch.nan, value)


def _require_lengths(y: Tensor, **others: Tensor | None) -> None:
    """Refuse samples of which there are not as many labels; one alone is for all of them."""
    n = y.shape[-1:]
    for name, one in others.items():
        if one is not None and one.shape[-1:] != n and one.shape[-1:] != (1,) != n:
            found, wanted = (" × ".join(map(str, given.shape)) or "one" for given in (one, y))
            raise UserError(f"{name}: {found} for {wanted} labels y; expected as many of each")


def _binary(y: Tensor, name: str) -> Tensor:
    """Labels as bool; UserError for any that is not 0 or 1 (NaN, or the −1 of other conventions)."""
    if y.dtype != torch.bool:
        _require_all((y == 0) | (y == 1), y, f"{name}: expected labels of 0 and 1")
    return y.bool()


def _classes(y: Tensor, name: str, classes: int) -> Tensor:
    """Labels as whole numbers from 0 to `classes` − 1; UserError for any other."""
    if y.dtype == torch.bool:
        return y.long()
    right = (y >= 0) & (y < classes)
    if y.is_floating_point():
        right &= y == y.trunc()
    _require_all(right, y, f"{name}: expected classes from 0 to {classes - 1}")
    return y.long()


def _require_all(right: Tensor, values: Tensor, what: str) -> None:
    if not bool(right.all()):
        raise UserError(f"{what}, found {values[~right][0].item():g}")


def _weight(weight: Tensor | None, like: Tensor) -> Tensor:
    wide = hardware.wide(like.device)
    if weight is None:
        return torch.ones(like.shape[-1], dtype=wide, device=like.device)
    return weight.to(wide)
