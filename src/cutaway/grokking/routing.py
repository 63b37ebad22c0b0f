"""Routing: how a gate shares inputs out among heads, penalties that make it decide, measures.

Every function takes gate weights (..., rows, layers, heads), each input's weights a distribution over
heads, averages over layers, and returns (...): () for one network, (members,) for a stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.grokking.spectrum import gini


def entropy(weights: Tensor) -> Tensor:
    """Entropy of distributions over the last axis, over ln n: 0 decided, 1 undecided.

    H(w) / ln n = -Σ wᵢ ln wᵢ / ln n; 0 where there is one head only. (..., heads) → (...).
    """
    heads = weights.shape[-1]
    # clamped: a softmax may underflow to 0, where the gradient of w ln w is infinite
    logarithm = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return -(weights * logarithm).sum(-1) / math.log(max(heads, 2))


# -- penalties, differentiable; the smaller, the more decided ------------------------------------


def entropy_penalty(weights: Tensor) -> Tensor:
    """Mean over inputs and layers of H(w) / ln n, 0 to 1."""
    return entropy(weights).mean((-2, -1))


def sparsity_penalty(weights: Tensor) -> Tensor:
    """Mean over inputs and layers of 1 - max w: 0 to 1 - 1/n."""
    return 1 - weights.amax(-1).mean((-2, -1))


def gini_penalty(weights: Tensor) -> Tensor:
    """Mean over inputs and layers of 1 - Gini(w): 1/n (one head has all) to 1 (all alike)."""
    return 1 - gini(weights).mean((-2, -1))


def consistency_penalty(weights: Tensor) -> Tensor:
    """Mean squared distance of an input's weights from the batch's mean weights.

    mean over inputs and layers of ‖w - w̄‖², w̄ the mean over inputs: 0 where all inputs are routed
    alike, 1 - 1/n where each goes to one head and all heads get equally many.
    """
    return (weights - weights.mean(-3, keepdim=True)).square().sum(-1).mean((-2, -1))


REGULARIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": entropy_penalty,
    "sparsity": sparsity_penalty,
    "gini": gini_penalty,
    "consistency": consistency_penalty,
}


def regularizer(name: str, weights: Tensor) -> Tensor:
    """The penalty of that name on gate weights (..., rows, layers, heads) → (...)."""
    if name not in REGULARIZERS:
        known = ", ".join(REGULARIZERS)
        raise UserError(f"routing_regularizer = {name!r}: expected one of {known}")
    return REGULARIZERS[name](weights)


# -- measures -------------------------------------------------------------------------------------


def routing_measures(weights: Tensor) -> dict[str, Tensor]:
    """Measures of gate weights (..., rows, layers, heads), each (...), mean over the layers.

    routing_entropy          mean over inputs of H(w) / ln n: 0 where each input takes one head
    routing_entropy_of_mean  H(w̄) / ln n of the mean weights: 1 where heads are used equally
    routing_information      their difference: the mutual information of input and head over ln n;
                             0 where all inputs are routed alike, 1 where the input decides the head
                             and heads are used equally
    routing_gini             mean over inputs of the Gini coefficient of w, 0 to 1 - 1/n
    routing_utilisation      share of heads that are dominant (largest weight) for some input
    routing_effective_heads  exp H(w̄): how many equally used heads would be as varied, 1 to n
    """
    heads = weights.shape[-1]
    of_each = entropy(weights).mean((-2, -1))
    of_mean = entropy(weights.mean(-3))
    used = torch.nn.functional.one_hot(dominant(weights), heads).amax(-3)
    return {
        "routing_entropy": of_each,
        "routing_entropy_of_mean": of_mean.mean(-1),
        "routing_information": of_mean.mean(-1) - of_each,
        "routing_gini": gini(weights).mean((-2, -1)),
        "routing_utilisation": used.to(weights.dtype).mean((-2, -1)),
        "routing_effective_heads": (of_mean * math.log(heads)).exp().mean(-1),
    }


def dominant(weights: Tensor) -> Tensor:
    """The head with the largest weight, the first of equals: (..., heads) → (...) int64."""
    return weights.argmax(-1)
