"""Exact linear probes of a layer: all label sets and strengths in one solve, the strength by validation.

States are centred and divided by one number, so that C means the same in every layer and model. Classes are weighed as equal as the cap allows, and
what that does to the logits is taken out again (`Probe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.probes.fitting.controls import mass_mean
from cutaway.probes.states.probe import sound
from cutaway.stats.logistic import fit_logistic
from cutaway.stats.softmax import fit_softmax
from cutaway.stats.ties import decided, least

_ROWS = 16_384  # rows whose sums are taken at once
_DECADES = 3  # by which the strengths are extended, at most
_GAIN = 0.98  # of the loss: a decade that leaves more than this of it is the last
_STRETCHES = 50  # of a single validation document, for the cross-fit


@dataclass(frozen=True)
class LayerFits:
    """The fits of P label sets at one layer, each with its chosen strength.

    `weight` (P, outputs, d) and `bias` (P, outputs) act on (x − mean)·scale; outputs is 1 for two
    classes. `trained_prior` (P, C): the classes' shares in training, weights included. `strength`
    (P,): C. `crossfit` (P,): balanced accuracy on validation where the strength is chosen on one
    half of its documents and scored on the other. `at_edge` (P,): whether the best strength tried was
    the largest or the smallest.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    trained_prior: Tensor
    strength: Tensor
    crossfit: Tensor
    at_edge: Tensor

    def even(self, x: Tensor) -> Tensor:
        """log p of each class as if all were equally frequent: x (n, d) → (P, n, C)."""
        z = normalised(x, self.mean, self.scale) @ self.weight.mT + self.bias[:, None]
        return evened(z.where(sound(x), torch.nan), self.trained_prior)


def normalisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) of states (n, d) and one number s () for which the median column of (x − mean)·s has
    variance 1, in float32; s is 0 where no column varies.

    Not the mean column: a few dimensions of many models are hundreds of times as large as others, and
    C would then mean something else in each layer.
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for part in x.split(_ROWS):
        total += part.double().sum(0)
    mean = total / len(x)
    square = torch.zeros_like(mean)
    for part in x.split(_ROWS):
        square += (part.double() - mean).square().sum(0)
    varied = square[square > 0] / len(x)
    scale = float(varied.median()) ** -0.5 if len(varied) else 0.0
    return mean.float(), torch.tensor(scale)


def normalised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(x − mean)·scale in float32."""
    return (x.float() - mean) * scale


def class_weights(label: Tensor, n_classes: int, cap: float) -> Tensor:
    """What an example of each class weighs, (..., C), for labels (..., n): the most frequent class 1,
    another as many times more as it is rarer, `cap` at most."""
    counts = torch.stack([(label == one).sum(-1) for one in range(n_classes)], -1)
    return (counts.amax(-1, keepdim=True) / counts.clamp(min=1)).clamp(max=cap)


def trained_prior(label: Tensor, n_classes: int, cap: float) -> Tensor:
    """The classes' shares (..., C) that training sees with these weights."""
    counts = torch.stack([(label == one).sum(-1) for one in range(n_classes)], -1)
    mass = counts * class_weights(label, n_classes, cap)
    return mass / mass.sum(-1, keepdim=True)


def evened(z: Tensor, prior: Tensor) -> Tensor:
    """Logits (..., n, outputs) less the log of the prior (..., C) of training: log-probabilities
    (..., n, C); one output is the second class's logit against the first."""
    if z.shape[-1] == 1:
        z = torch.cat([torch.zeros_like(z), z], -1)
    return (z - prior.to(z.dtype).log()[..., None, :]).log_softmax(-1)


def fit_layer(
    x: Tensor,
    labels: Tensor,
    validation: Tensor,
    validation_labels: Tensor,
    documents: Tensor,
    *,
    n_classes: int,
    strengths: Sequence[float],
    extend: bool = False,
    keep: Tensor | None = None,
    cap: float = 5.0,
    seed: int = 0,
) -> LayerFits:
    """Fit states x (n, d) to each of P label sets (P, n), at every strength C.

    Each set's strength is the one with the least balanced log loss on `validation` (m, d) with
    `validation_labels` (P, m), where `keep` (P, m) says so; `documents` (m,) says which of these belong
    together. With `extend`, where the first set's best strength is the largest or smallest, the next
    decade is tried, three times at most and while that gains 2 % of the loss. Raises UserError where
    a set has one class only, values are not finite, or there is no strength.
    """
    if not len(strengths):
        raise UserError("strengths: expected one or more")
    mean, scale = normalisation(x)
    inputs, held_out = normalised(x, mean, scale), normalised(validation, mean, scale)
    prior = trained_prior(labels, n_classes, cap).float()
    keep = torch.ones_like(validation_labels, dtype=torch.bool) if keep is None else keep
    weights = class_weights(labels, n_classes, cap).gather(-1, labels)

    def solved(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (P, K, outputs, d), biases, and validation's log-probabilities (P, K, m, C)."""
        if n_classes == 2:
            found = fit_logistic(inputs, labels[:, None], c=c, weight=weights[:, None])
            weight, bias = found.weight[..., None, :], found.bias[..., None]
        else:
            many = fit_softmax(inputs, labels[:, None], n_classes, c=c, weight=weights[:, None])
            weight, bias = many.weight, many.bias
        return weight, bias, evened(held_out @ weight.mT + bias[..., None, :], prior[:, None])

    c = torch.tensor(sorted(strengths), dtype=torch.float64)
    fits = solved(c)
    reached = torch.inf
    for _ in range(_DECADES if extend else 0):
        losses = _losses(fits[2][:1], validation_labels[:1], keep[:1], n_classes)[0]
        best, before, reached = int(least(losses)), reached, float(losses.min())
        if 0 < best < len(c) - 1 or reached > _GAIN * before:
            break
        more = c[-1:] * 10 if best else c[:1] / 10
        pair = (fits, solved(more)) if best else (solved(more), fits)
        fits = tuple(torch.cat(both, 1) for both in zip(*pair, strict=True))
        c = torch.cat([c, more] if best else [more, c])
    weight, bias, even = fits
    chosen, crossfit = _chosen(even, validation_labels, keep, documents, n_classes, seed)
    sets = torch.arange(len(labels))
    return LayerFits(
        *(mean, scale, weight[sets, chosen], bias[sets, chosen], prior),
        strength=c[chosen],
        crossfit=crossfit,
        at_edge=(chosen == 0) | (chosen == len(c) - 1),
    )


def fit_mass_mean(x: Tensor, labels: Tensor, n_classes: int) -> LayerFits:
    """The difference of the class means as a probe (`controls.mass_mean`) of states x (n, d) for each
    of P label sets (P, n), in the form of fits: no strength, no cross-fit."""
    mean, scale = normalisation(x)
    inputs = normalised(x, mean, scale)
    weight, bias = zip(*(mass_mean(inputs, one, n_classes) for one in labels), strict=True)
    nothing = torch.full((len(labels),), torch.nan)
    even = torch.full((len(labels), n_classes), 1 / n_classes)
    never = torch.zeros(len(labels), dtype=torch.bool)
    return LayerFits(
        mean, scale, torch.stack(weight), torch.stack(bias), even, nothing, nothing, never
    )


def _chosen(
    even: Tensor, labels: Tensor, keep: Tensor, documents: Tensor, n_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The best strength of each set, (P,), and the cross-fitted balanced accuracy, (P,).

    A half that lacks a class chooses nothing: there the strength chosen on all counts.
    """
    names, member = documents.unique(return_inverse=True)
    if len(names) == 1:  # halves of stretches of its text
        member = torch.arange(len(member)) * _STRETCHES // len(member)
    count = int(member.max()) + 1
    order = torch.randperm(count, generator=torch_generator(seed, 0, "cross-fit"))
    half = (order < count // 2)[member]
    best = least(_losses(even, labels, keep, n_classes))
    choice = []
    for side in (half, ~half):
        rows = keep & side
        there = [((labels == one) & rows).any(-1) for one in range(n_classes)]
        found = least(_losses(even, labels, rows, n_classes))
        choice.append(torch.where(torch.stack(there).all(0), found, best))
    sets = torch.arange(len(labels))
    right = decided(even) == labels[:, None]
    correct = torch.where(half, right[sets, choice[1]], right[sets, choice[0]])
    recalls = []
    for one in range(n_classes):
        there = (labels == one) & keep
        recalls.append((correct & there).sum(-1) / there.sum(-1))
    return best, torch.stack(recalls).nanmean(0)


def _losses(even: Tensor, labels: Tensor, rows: Tensor, n_classes: int) -> Tensor:
    """Balanced log loss over some rows (P, m), (P, K): the mean over the classes that are there."""
    losses = -even.gather(-1, labels[:, None, :, None].expand(*even.shape[:-1], 1))[..., 0]
    of_classes = []
    for one in range(n_classes):
        there = ((labels == one) & rows)[:, None].to(losses.dtype)
        of_classes.append((losses * there).sum(-1) / there.sum(-1))
    return torch.stack(of_classes).nanmean(0)
