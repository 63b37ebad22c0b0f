"""A dictionary against the truth: are its features found, split, or absorbed by their children?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.dictionaries.synthetic.truth import Hierarchy, Truth

ALIGNED = 0.5  # least cosine with a true feature at which a row counts as one of its own
CARRIED = 0.4  # share of a parent's amplitude a child's feature must write to carry its direction


@torch.no_grad()
def recovery(decoder: Tensor, directions: Tensor) -> tuple[float, Tensor]:
    """MMCS: mean over true features of their largest cosine with a decoder row; and which row.

    `decoder` (F, d), `directions` (n, d) of unit length → the mean, and (n,) indices.
    """
    best = (directions @ _unit(decoder).T).max(1)
    return float(best.values.mean()), best.indices


@torch.no_grad()
def matched_f1(features: Tensor, amplitudes: Tensor, match: Tensor) -> float:
    """Mean over true features of the F1 with which their matched feature tells when they are on.

        F1 = 2·both / (matched feature on + true feature on)

    `features` (tokens, F), `amplitudes` (tokens, n), `match` (n,) from `recovery`.
    """
    return _f1(_agreement(features, amplitudes, match))


# -- whose feature a row is ------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """Which true feature each decoder row is a feature of, (F,) int64, −1 for none; and whether it
    is a child's row that leans on the parent, (F,) bool."""

    feature: Tensor
    leaning: Tensor


@torch.no_grad()
def alignment(decoder: Tensor, truth: Truth) -> Alignment:
    """Give each decoder row (F, d) to the nearest true feature, by cosine.

    In a hierarchy a child has two ways of being written: by its own direction u_c, and together
    with its parent as they come, m_p·u_p + m_c·u_c with their magnitudes m. A row nearest to the
    second is the child's and leans on the parent, however much of it is the parent's direction; a
    row is the parent's own only where it is nearer to u_p than to any of these. A row whose cosine
    with what it is nearest to is below `ALIGNED` (60°) is nobody's.
    """
    directions = truth.directions().to(decoder.device)
    candidates, owners = directions, torch.arange(truth.n_features, device=decoder.device)
    if isinstance(truth, Hierarchy):
        parent_of = truth.parent_of.to(decoder.device)
        children = owners[truth.parents :]
        together = (
            truth.parent_magnitude * directions[parent_of[children]]
            + truth.child_magnitude * directions[children]
        )
        candidates = torch.cat([directions, _unit(together)])
        owners = torch.cat([owners, children])
    nearest = (_unit(decoder) @ candidates.T).max(1)
    near = nearest.values >= ALIGNED
    feature = torch.where(near, owners[nearest.indices], -1)
    return Alignment(feature, near & (nearest.indices >= truth.n_features))


@dataclass(frozen=True)
class Splitting:
    """How many rows each true feature has, (n,) int64; in a hierarchy also which parents have none
    while each of their children's features leans on them, (P,) bool: split over the children."""

    rows: Tensor
    over_children: Tensor | None = None


@torch.no_grad()
def splitting(decoder: Tensor, truth: Truth) -> Splitting:
    """Count the rows that are features of each true one (`alignment`): 0 missed, above 1 split."""
    found = alignment(decoder, truth)
    rows = _per(found.feature, found.feature >= 0, truth.n_features)
    if not isinstance(truth, Hierarchy):
        return Splitting(rows)
    leaning = _per(found.feature, found.leaning, truth.n_features)[truth.parents :] > 0
    everywhere = leaning.reshape(truth.parents, truth.children).all(1)
    return Splitting(rows, (rows[: truth.parents] == 0) & everywhere)


# -- absorption ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Absorption:
    """What became of parents on the tokens they are on in; shares of (token, parent) pairs.

    `rate`: absorbed, `missing`: neither seen nor absorbed; the rest is seen. `per_parent` and
    `missing_per_parent` (P,) float64 of each alone, NaN for a parent that was never on; `tokens`
    (P,) int64 on which each was.
    """

    rate: float
    missing: float
    per_parent: Tensor
    missing_per_parent: Tensor
    tokens: Tensor


@torch.no_grad()
def absorption(
    decoder: Tensor, features: Tensor, amplitudes: Tensor, truth: Hierarchy
) -> Absorption:
    """Exact absorption: of the tokens a parent p is on in, on how many is it

        seen       a feature of the parent's own fires (`alignment`), however weakly;
        absorbed   none does, and some feature i of a child of p's carries its direction:
                   cᵢ = fᵢ·⟨u_p, dᵢ⟩ ≥ 0.4·a_p
        missing    neither: the parent is not told of at all.

    With a_p the parent's true amplitude (its projection on its own direction u_p, with nothing of
    other features in it), dᵢ the decoder rows (of length 1: ⟨u_p, dᵢ⟩ is their cosine), f and a in
    the same units: this is the full absorption of Chanin et al. 2024 (2409.14507) with the true direction in the probe's place. All
    of a child's features count, leaning or not (its own direction is at right angles to u_p). A
    parent without a feature of its own is absorbed or missing by the same rule.

    `decoder` (F, d), rows of any length; `features` (tokens, F) as it multiplies them, `amplitudes`
    (tokens, n).
    """
    counts = _fates(decoder, alignment(decoder, truth), features, amplitudes, truth)
    return _absorption(counts)


def _fates(
    decoder: Tensor, found: Alignment, features: Tensor, amplitudes: Tensor, truth: Hierarchy
) -> Tensor:
    """Tokens on which each parent is on, absorbed, missing: (3, P) float64."""
    count = truth.parents
    parent_of = torch.cat([truth.parent_of, torch.tensor([-1])]).to(decoder.device)
    own = (found.feature >= 0) & (found.feature < count)
    family = torch.where(own, found.feature, parent_of[found.feature])  # −1: of no family
    of_child = (family >= 0) & ~own

    def most(values: Tensor, chosen: Tensor) -> Tensor:
        """The largest of each family's chosen columns, at least 0: (tokens, P)."""
        groups = family[chosen].expand(len(values), -1)
        empty = values.new_zeros(len(values), count)
        return empty.scatter_reduce_(1, groups, values[:, chosen], "amax")

    parents = truth.directions()[:count].to(decoder)
    along = torch.linalg.vecdot(decoder, parents[family.clamp(min=0)])  # |dᵢ|·cos(u_p, dᵢ)
    a = amplitudes[:, :count]
    on = a > 0
    unseen = on & (most(features, own) <= 0)
    carried = most(features * along, of_child) >= CARRIED * a
    fates = (on, unseen & carried, unseen & ~carried)
    return torch.stack([fate.sum(0) for fate in fates]).cpu().double()


def _absorption(counts: Tensor) -> Absorption:
    on, absorbed, missing = counts
    total = on.sum()
    return Absorption(
        rate=float(absorbed.sum() / total),
        missing=float(missing.sum() / total),
        per_parent=absorbed / on,
        missing_per_parent=missing / on,
        tokens=on.long(),
    )


# -- all of it, batch by batch ---------------------------------------------------------------------


class Comparison:
    """Adds up batches of features against the truth, and says what they come to.

    `figures`: `mmcs`, `matched_f1`; in a hierarchy also `absorption` and `parents_missing`, the
    shares of parents' tokens that are absorbed and missing. `decoder` (F, d) is one for all
    batches.
    """

    @torch.no_grad()
    def __init__(self, decoder: Tensor, truth: Truth):
        self.decoder, self.truth = decoder.detach().float(), truth
        directions = truth.directions().to(decoder.device)
        self.mmcs, self.match = recovery(self.decoder, directions)
        self._found = alignment(self.decoder, truth)
        self._agreement = torch.zeros(3, truth.n_features, dtype=torch.float64)
        self._fates: Tensor | None = None
        if isinstance(truth, Hierarchy):
            self._fates = torch.zeros(3, truth.parents, dtype=torch.float64)

    @torch.no_grad()
    def add(self, features: Tensor, amplitudes: Tensor) -> None:
        """(tokens, F) and the (tokens, n) amplitudes behind the states they are of."""
        self._agreement += _agreement(features, amplitudes, self.match)
        if self._fates is not None and isinstance(self.truth, Hierarchy):
            self._fates += _fates(self.decoder, self._found, features, amplitudes, self.truth)

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        told = {"mmcs": self.mmcs, "matched_f1": _f1(self._agreement)}
        if self._fates is not None:
            found = _absorption(self._fates)
            told |= {"absorption": found.rate, "parents_missing": found.missing}
        return told


def _agreement(features: Tensor, amplitudes: Tensor, match: Tensor) -> Tensor:
    """Tokens on which each matched feature is on, the true one is, both are: (3, n) float64."""
    predicted, true = features[:, match] > 0, amplitudes > 0
    fates = (predicted, true, predicted & true)
    return torch.stack([fate.sum(0) for fate in fates]).cpu().double()


def _f1(agreement: Tensor) -> float:
    predicted, true, both = agreement
    return float((2 * both / (predicted + true).clamp(min=1)).mean())


def _per(feature: Tensor, chosen: Tensor, n: int) -> Tensor:
    """How many of the chosen rows belong to each of n features, (n,)."""
    return torch.bincount(feature[chosen], minlength=n)


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-12)
