"""Exact linear probes of a layer: all label sets and strengths in one solve, the strength by validation.

States are centred and divided by one number, so that C means the same in every layer and model
and a rotation of the states changes nothing. Classes are weighed as equal as the cap allows, and
what that does to the logits is taken out again (`Probe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.probes.controls import mass_mean
from cutaway.stats.logistic import fit_logistic
from cutaway.stats.softmax import fit_softmax

_ROWS = 16_384  # rows whose sums are taken at once


@dataclass(frozen=True)
class LayerFits:
    """The fits of P label sets at one layer, each with its chosen strength.

    `weight` (P, outputs, d) and `bias` (P, outputs) act on (x − mean)·scale; outputs is 1 for two
    classes. `trained_prior` (P, C): the classes' shares in training, weights included. `strength`
    (P,): C. `crossfit` (P,): balanced accuracy on validation where the strength is chosen on one
    half of its documents and scored on the other.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    trained_prior: Tensor
    strength: Tensor
    crossfit: Tensor

    def even(self, x: Tensor) -> Tensor:
        """log p of each class as if all were equally frequent: x (n, d) → (P, n, C)."""
        z = normalised(x, self.mean, self.scale) @ self.weight.mT + self.bias[:, None]
        return evened(z, self.trained_prior)


def normalisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) of states (n, d) and the number s () for which E‖(x − mean)·s‖² = d, in float32."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for part in x.split(_ROWS):
        total += part.double().sum(0)
    mean = total / len(x)
    square = sum(float((part.double() - mean).square().sum()) for part in x.split(_ROWS))
    scale = (x.shape[1] * len(x) / square) ** 0.5 if square > 0 else 0.0
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
    cap: float = 5.0,
    seed: int = 0,
) -> LayerFits:
    """Fit states x (n, d) to each of P label sets (P, n), at every strength C.

    Each set's strength is the one with the least balanced log loss on `validation` (m, d) with
    `validation_labels` (P, m); `documents` (m,) says which of these belong together. Raises
    UserError where a set has one class only, values are not finite, or there is no strength.
    """
    if not len(strengths):
        raise UserError("strengths: expected one or more")
    mean, scale = normalisation(x)
    weights = class_weights(labels, n_classes, cap).gather(-1, labels)
    c = torch.tensor(list(strengths))
    inputs = normalised(x, mean, scale)
    if n_classes == 2:
        found = fit_logistic(inputs, labels[:, None], c=c, weight=weights[:, None])
        weight, bias = found.weight[..., None, :], found.bias[..., None]  # (P, K, 1, d)
    else:
        many = fit_softmax(inputs, labels[:, None], n_classes, c=c, weight=weights[:, None])
        weight, bias = many.weight, many.bias
    prior = trained_prior(labels, n_classes, cap).float()
    z = normalised(validation, mean, scale) @ weight.mT + bias[..., None, :]
    even = evened(z, prior[:, None])  # (P, K, m, C)
    chosen, crossfit = _chosen(even, validation_labels, documents, n_classes, seed)
    sets = torch.arange(len(labels))
    return LayerFits(
        *(mean, scale, weight[sets, chosen], bias[sets, chosen], prior),
        strength=c[chosen],
        crossfit=crossfit,
    )


def fit_mass_mean(x: Tensor, label: Tensor, n_classes: int) -> LayerFits:
    """The difference of the class means as a probe (`controls.mass_mean`) of states x (n, d), in the
    form of fits: one label set, no strength, no cross-fit."""
    mean, scale = normalisation(x)
    weight, bias = mass_mean(normalised(x, mean, scale), label, n_classes)
    nothing = torch.tensor([torch.nan])
    even = torch.full((1, n_classes), 1 / n_classes)
    return LayerFits(mean, scale, weight[None], bias[None], even, nothing, nothing)


def _chosen(
    even: Tensor, labels: Tensor, documents: Tensor, n_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The best strength of each set, (P,), and the cross-fitted balanced accuracy, (P,)."""
    names, member = documents.unique(return_inverse=True)
    order = torch.randperm(len(names), generator=torch_generator(seed, 0, "cross-fit"))
    half = (order < len(names) // 2)[member]
    everything = torch.ones_like(half)
    # (P, K) each: chosen on a half, used on the other
    choice = {
        side: _loss(even, labels, rows, n_classes).argmin(-1)
        for side, rows in (("all", everything), ("in", half), ("out", ~half))
    }
    sets = torch.arange(len(labels))
    right = even.argmax(-1) == labels[:, None]
    correct = torch.where(half, right[sets, choice["out"]], right[sets, choice["in"]])
    recalls = [
        (correct & (labels == one)).sum(-1) / (labels == one).sum(-1) for one in range(n_classes)
    ]
    return choice["all"], torch.stack(recalls).nanmean(0)


def _loss(even: Tensor, labels: Tensor, rows: Tensor, n_classes: int) -> Tensor:
    """Balanced log loss over some rows, (P, K): the mean over the classes that are there."""
    losses = -even.gather(-1, labels[:, None, :, None].expand(*even.shape[:-1], 1))[..., 0]
    of_classes = []
    for one in range(n_classes):
        there = ((labels == one) & rows)[:, None].to(losses.dtype)
        of_classes.append((losses * there).sum(-1) / there.sum(-1))
    return torch.stack(of_classes).nanmean(0)
