"""All pairs of residues with their results, split exactly into training and test pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.base.doors import door
from cutaway.base.errors import require_finite, require_whole
from cutaway.base.seeds import numpy_generator

_MOST_P = 10_000  # 10⁸ pairs, 1.6 GB


@dataclass(frozen=True)
class Split:
    """Disjoint pairs (rows, 2) int64 of (a, b), with their classes (rows,) int64."""

    train_pairs: Tensor
    train_labels: Tensor
    test_pairs: Tensor
    test_labels: Tensor


def all_pairs(p: int) -> Tensor:
    """Every (a, b), a-major: row a·p + b is (a, b); (p², 2) int64. UserError for p that is no modulus."""
    require_whole("p", p, 1, _MOST_P)
    residues = torch.arange(p)
    return torch.cartesian_prod(residues, residues)


def results(pairs: Tensor, p: int, operation: str) -> Tensor:
    """The operation's result modulo p of pairs (rows, 2); division by 0 gives -1."""
    a, b = pairs.unbind(-1)
    if operation == "add":
        return (a + b) % p
    if operation == "subtract":
        return (a - b) % p
    if operation == "multiply":
        return (a * b) % p
    inverses = torch.tensor([0, *(pow(one, -1, p) for one in range(1, p))])
    return torch.where(b == 0, -1, (a * inverses[b]) % p)


@door
def split(p: int, operation: str, train_frac: float, data_seed: int) -> Split:
    """round(train_frac · pairs) training pairs, drawn by `data_seed`, and the others."""
    require_finite("train_frac", train_frac, 0)
    pairs = all_pairs(p)
    if operation == "divide":
        pairs = pairs[pairs[:, 1] != 0]
    labels = results(pairs, p, operation)
    order = numpy_generator(data_seed, 0, "split").permutation(len(pairs))
    count = round(train_frac * len(pairs))
    # sorted: neighbouring rows share a, so the same rows of a table are fetched one after another
    train, test = (torch.from_numpy(part).sort().values for part in (order[:count], order[count:]))
    return Split(pairs[train], labels[train], pairs[test], labels[test])
