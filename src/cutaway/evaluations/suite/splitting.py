"""Which features stand for a concept: k-sparse probes, grown while they get better.

An L1 probe on all features ranks them; ordinary probes on the first 1, 2, … tell how many it takes
(feature splitting in Chanin et al. 2024, arXiv 2409.14507).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cutaway.sparse.codes import SparseCodes
from cutaway.stats.logistic import fit_logistic
from cutaway.stats.scores import f1
from cutaway.stats.ties import largest

PENALTY = 0.01  # of the L1 norm, as published
ITERATIONS = 300
TOLERANCE = 1e-3  # of the largest weight, by which none changes any more: ranks are settled earlier
LARGEST_K = 10
RISE = 0.03  # by which F1 must rise for another feature to count


def sparse_matrix(batches: Iterable[SparseCodes]) -> Tensor:
    """Features of batches of tokens as one sparse matrix (n, F) in compressed rows, detached."""
    ends, columns, values, n, found = [], [], [], 0, 0
    for codes in batches:
        ends.append(codes.pattern.offsets[1:] + found)
        columns.append(codes.pattern.features)
        values.append(codes.values.detach().float())
        n, found, features = n + codes.shape[0], found + len(codes.pattern), codes.shape[1]
    begin = torch.zeros_like(ends[0][:1])
    rows, columns, values = torch.cat([begin, *ends]), torch.cat(columns), torch.cat(values)
    return torch.sparse_csr_tensor(rows, columns, values, (n, features), check_invariants=False)


def balanced(labels: Tensor) -> Tensor:
    """Weights of examples (..., n) of 0/1 labels that give both classes half: n / (2 n_class)."""
    share = labels.float().mean(-1, keepdim=True)
    return 0.5 * torch.where(labels.bool(), 1 / share, 1 / (1 - share))


@torch.no_grad()
def l1_probe(
    x: Tensor,
    labels: Tensor,
    *,
    penalty: float = PENALTY,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Weights (C, F) of C logistic probes on sparse features x (n, F), all at once:

        argmin  1/n Σᵢ vᵢ log(1 + exp(−±(xᵢ·w + b))) + penalty ‖w‖₁

    `labels` (C, n) of 0/1; v is 1 for negatives and makes positives weigh as much as all of them;
    b is not penalised. By FISTA with restarts (Beck & Teboulle 2009; O'Donoghue & Candès 2015),
    with the step 1/L of the largest curvature, until no weight changes by more than `tolerance` of
    the largest or `iterations` are done.
    """
    n, features = x.shape
    y = labels.T.to(x.dtype)
    positives = y.sum(0)
    weight = torch.where(y > 0, (n - positives) / positives, torch.ones_like(y)) / n
    transposed = _transposed(x)

    def logits(w: Tensor) -> Tensor:  # w (F + 1, C), the last row being b
        return x @ w[:-1] + w[-1]

    def back(r: Tensor) -> Tensor:
        return torch.cat([transposed @ r, r.sum(0, keepdim=True)])

    largest = torch.ones(features + 1, y.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(30):  # power iteration: the curvature's bound is ¼ Xᵀ diag(v) X
        largest = back(weight * logits(largest / largest.norm(dim=0)))
    step = 1 / (0.25 * 1.1 * largest.norm(dim=0))  # a tenth more: the iteration comes from below

    w = torch.zeros_like(largest)
    point, momentum = w, torch.ones((), dtype=x.dtype, device=x.device).expand(y.shape[1])
    for iteration in range(iterations):
        moved = point - step * back(weight * (logits(point).sigmoid() - y))
        new = torch.cat([shrunk(moved[:-1], penalty * step), moved[-1:]])
        restart = ((point - new) * (new - w)).sum(0) > 0
        momentum = torch.where(restart, 1.0, momentum)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        carried = torch.where(restart, 0.0, (momentum - 1) / following)
        change, scale = (new - w).abs().amax(), new.abs().amax()
        point, w, momentum = new + carried * (new - w), new, following
        # Asked now and then only: on a GPU the answer waits for all work before it.
        if iteration % 10 == 9 and bool(change <= tolerance * scale):
            break
    return w[:-1].T


def shrunk(w: Tensor, by: Tensor) -> Tensor:
    """Each number moved towards zero by `by`, and no further."""
    return w.sign() * (w.abs() - by).clamp_(min=0)


def grown(scores: Tensor, rise: float = RISE) -> Tensor:
    """How many features count, (C,), by F1 scores (C, K) of probes on the first 1 … K.

    One more counts as long as F1 rises by more than `rise`, the first against no probe at all (0).
    """
    before = torch.cat([torch.zeros_like(scores[:, :1]), scores[:, :-1]], 1)
    return (scores > before + rise).cumprod(1).sum(1)


@torch.no_grad()
def split_features(
    train: Tensor, train_labels: Tensor, validation: Tensor, validation_labels: Tensor,
    *, largest_k: int = LARGEST_K, rise: float = RISE, penalty: float = PENALTY,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The features that stand for each of C concepts: a mask (C, F), and their probes' F1 (C,).

    `train` and `validation` are sparse features (n, F); labels (C, n) of 0/1. Features are ranked
    by the L1 probe's weight, positive ones only; balanced logistic probes (C = 1) on the first k
    are fitted on `train`, and k grows by `grown` on `validation`: the words that are scored later
    have no say. F1 is 0 where no feature counts.
    """
    weights = l1_probe(train, train_labels, penalty=penalty)
    ranked, which = largest(weights, min(largest_k, weights.shape[1]))
    useful = ranked > 0
    columns, place = which.unique(return_inverse=True)
    seen = [_columns(part, columns).T[place] * useful[..., None] for part in (train, validation)]
    scores = torch.zeros_like(ranked)
    for k in range(1, scores.shape[1] + 1):
        x, held_out = (part[:, :k].transpose(1, 2) for part in seen)
        fit = fit_logistic(x, train_labels.float(), weight=balanced(train_labels))
        scores[:, k - 1] = f1(validation_labels, fit.logits(held_out) > 0)
        if not bool((grown(scores[:, :k], rise) == k).any()):
            break
    # A rank without a useful feature adds none, whatever F1 does.
    count = torch.minimum(grown(scores, rise), useful.sum(1))
    chosen = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
    mask = torch.zeros(weights.shape, dtype=torch.bool, device=weights.device)
    mask.scatter_(1, which, chosen)
    reached = scores.gather(1, (count - 1).clamp(min=0)[:, None]).squeeze(1)
    return mask, torch.where(count > 0, reached, 0.0)


def _columns(x: Tensor, columns: Tensor) -> Tensor:
    """Some columns (k,) of a sparse matrix (n, F), dense: (n, k)."""
    pick = torch.zeros(x.shape[1], len(columns), dtype=x.dtype, device=x.device)
    pick[columns, torch.arange(len(columns), device=x.device)] = 1
    return x @ pick


def _transposed(x: Tensor) -> Tensor:
    """Compressed columns of a matrix are the compressed rows of its transpose."""
    c = x.to_sparse_csc()
    return torch.sparse_csr_tensor(
        c.ccol_indices(), c.row_indices(), c.values(), (x.shape[1], x.shape[0]),
        check_invariants=False,
    )  # fmt: skip
