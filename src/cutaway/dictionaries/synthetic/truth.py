"""What synthetic states are made of (DEFINITIONS: ground truth): features a dictionary should find.

    x = Σᵢ aᵢ·uᵢ,   aᵢ ≥ 0, few of them above zero;   uᵢ unit directions, (n, d)

`Superposition`: n > d features in d dimensions, the same number of them on in every state.
`Hierarchy`: parents with children that never come alone, the case in which sparsity rewards a
dictionary for leaving a parent's own feature silent (absorption; Chanin et al. 2024, 2409.14507).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GROUP = 4  # features that come together where there is correlation


class Drawn(NamedTuple):
    """Some tokens' features, sparsely: `features` (tokens, slots) int64, all of a token different,
    and their amplitudes `values` (tokens, slots), zero where a slot is empty."""

    features: Tensor
    values: Tensor


class _Truth:
    """What both kinds of truth have; each says how many features there are, and draws them."""

    kind: ClassVar[str]
    n_features: int
    width: int
    seed: int

    def draw(self, tokens: int, generator: torch.Generator) -> Drawn:
        """The features of so many tokens."""
        raise TypeError(f"{type(self).__name__} does not say how to draw")

    def amplitudes(self, tokens: int, generator: torch.Generator) -> Tensor:
        """aᵢ of each token, zero where a feature is off: (tokens, n)."""
        return self.spread(self.draw(tokens, generator))

    def spread(self, drawn: Drawn) -> Tensor:
        """What was drawn as amplitudes of all features, (tokens, n)."""
        empty = drawn.values.new_zeros(len(drawn.values), self.n_features)
        return empty.scatter_(1, drawn.features, drawn.values)

    def to_json(self) -> dict[str, Any]:
        """`kind` and every setting: what `truth_from` takes."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Superposition(_Truth):
    """`active` of `n_features` are on in every token, every such set as likely.

    Directions are random; amplitudes 0.5 plus an exponential of mean 1. With `correlation` c,
    0 ≤ c < 1, features come together with the others of their group of four: those with the
    largest (1 − c)·own + c·shared are on, both uniform from 0 to 1. Raises UserError where
    `active` is more than half of the features.
    """

    kind: ClassVar[str] = "superposition"

    n_features: int
    width: int
    active: int
    correlation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.active <= self.n_features // 2:
            raise UserError(
                f"active = {self.active}: expected 1 to {self.n_features // 2}, "
                f"half of the {self.n_features} true features"
            )
        if not 0 <= self.correlation < 1:
            raise UserError(f"correlation = {self.correlation}: expected 0 to below 1")

    @property
    def l0(self) -> float:
        """Features that are on per token."""
        return float(self.active)

    def directions(self) -> Tensor:
        """The true features, unit rows, (n, d)."""
        return _random_rows(self.n_features, self.width, self.seed)

    def draw(self, tokens: int, generator: torch.Generator) -> Drawn:
        """See `Drawn`; slots are `active` many and never empty."""
        import torch

        if self.correlation:
            features = self._correlated(tokens, generator)
        else:
            features = _subsets(tokens, self.n_features, self.active, generator)
        sizes = torch.empty(features.shape).exponential_(generator=generator)
        return Drawn(features, 0.5 + sizes)

    def _correlated(self, tokens: int, generator: torch.Generator) -> Tensor:
        import torch

        own = torch.rand(tokens, self.n_features, generator=generator)
        groups = -(-self.n_features // _GROUP)
        shared = torch.rand(tokens, groups, generator=generator)
        shared = shared.repeat_interleave(_GROUP, 1)[:, : self.n_features]
        scores = (1 - self.correlation) * own + self.correlation * shared
        return scores.topk(self.active, dim=1).indices


@dataclass(frozen=True)
class Hierarchy(_Truth):
    """`parents` features with `children` each; a child comes only with its parent.

    Every parent is on in a share `parent_rate` of the tokens, and every token has at least one: each
    is on by itself with probability q, and where none is, one of them, where q solves

        q + (1 − q)^P / P = parent_rate

    (a token without any would be a state of zeros). With `child_rate` an on parent comes with exactly
    one of its children, each as likely. Amplitudes are uniform within `magnitude_spread` of
    `parent_magnitude` and `child_magnitude`, as a share of it.

    Directions are random, but within a family (a parent and its children) at right angles: a
    child's own direction carries nothing of its parent, so that what a child's dictionary row
    writes along the parent is absorbed from it. Features are numbered parents first, then the
    children of parent 0, of parent 1, and so on. Raises UserError for what cannot be.
    """

    kind: ClassVar[str] = "hierarchy"

    parents: int
    children: int
    width: int
    parent_rate: float = 0.15
    child_rate: float = 0.6
    parent_magnitude: float = 1.0
    child_magnitude: float = 1.0
    magnitude_spread: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("parents", "children"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: expected 1 or more")
        if self.width < 1 + self.children:
            raise UserError(
                f"d_model = {self.width}: too narrow for a parent and its {self.children} children "
                f"at right angles; expected {1 + self.children} or more"
            )
        for name in ("parent_rate", "child_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name)}: expected above 0 to 1")
        if self.parents * self.parent_rate < 1 - 1e-9:
            raise UserError(
                f"parent_rate = {self.parent_rate}: expected at least 1 / parents = "
                f"{1 / self.parents:.4g}, so that every token has a parent"
            )
        for name in ("parent_magnitude", "child_magnitude"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)}: expected a number above 0")
        if not 0 <= self.magnitude_spread < 1:
            raise UserError(f"magnitude_spread = {self.magnitude_spread}: expected 0 to below 1")

    @property
    def n_features(self) -> int:
        return self.parents * (1 + self.children)

    @property
    def l0(self) -> float:
        """Features that are on per token, on average."""
        return self.parents * self.parent_rate * (1 + self.child_rate)

    @property
    def parent_of(self) -> Tensor:
        """The parent of each feature, (n,) int64; −1 for parents."""
        import torch

        own = torch.full((self.parents,), -1)
        return torch.cat([own, torch.arange(self.parents).repeat_interleave(self.children)])

    def directions(self) -> Tensor:
        """The true features, unit rows, (n, d); each family's at right angles."""
        import torch

        rows = _random_rows(self.n_features, self.width, self.seed).double()
        shape = (self.parents, self.children, self.width)
        families = torch.cat(
            [rows[: self.parents, None], rows[self.parents :].reshape(shape)], dim=1
        )
        basis, triangle = torch.linalg.qr(families.mT)  # its columns, first the parent's own
        basis = (basis * torch.sign(triangle.diagonal(dim1=1, dim2=2))[:, None]).mT.float()
        return torch.cat([basis[:, 0], basis[:, 1:].reshape(-1, self.width)])

    def draw(self, tokens: int, generator: torch.Generator) -> Drawn:
        """See `Drawn`; a slot for each parent, then one for a child of each."""
        import torch

        shape = (tokens, self.parents)
        on = torch.rand(shape, generator=generator) < self._alone()
        stand_in = torch.randint(self.parents, (tokens, 1), generator=generator)
        on.scatter_(1, stand_in, on.gather(1, stand_in) | ~on.any(1, keepdim=True))
        with_child = on & (torch.rand(shape, generator=generator) < self.child_rate)
        which = torch.randint(self.children, shape, generator=generator)
        numbers = torch.arange(self.parents).expand(shape)
        features = torch.cat([numbers, self.parents + numbers * self.children + which], dim=1)
        sizes = 2 * torch.rand(tokens, 2 * self.parents, generator=generator) - 1
        sizes = 1 + self.magnitude_spread * sizes
        usual = torch.tensor([self.parent_magnitude, self.child_magnitude])
        sizes = sizes * usual.repeat_interleave(self.parents)
        return Drawn(features, torch.where(torch.cat([on, with_child], dim=1), sizes, 0.0))

    def _alone(self) -> float:
        """q: with what probability a parent is on by itself."""
        low, high = 0.0, 1.0
        for _ in range(60):  # halvings: the left side only rises with q
            q = (low + high) / 2
            if q + (1 - q) ** self.parents / self.parents < self.parent_rate:
                low = q
            else:
                high = q
        return low


Truth = Superposition | Hierarchy


def truth_from(content: dict[str, Any]) -> Truth:
    """What `to_json` gave; UserError for anything else."""
    kinds = {one.kind: one for one in (Superposition, Hierarchy)}
    settings = dict(content)
    kind = settings.pop("kind", None)
    try:
        return kinds[kind](**settings)
    except (KeyError, TypeError):
        raise UserError(f"synthetic = {content!r}: not a truth this cutaway knows") from None


def _random_rows(count: int, width: int, seed: int) -> Tensor:
    import torch

    generator = torch_generator(seed, 0, "truth")
    rows = torch.empty(count, width).normal_(generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)


def _subsets(tokens: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """k different of n numbers for each token, every set as likely: (tokens, k) int64.

    Floyd's way (Bentley & Floyd 1987): of the numbers to n − k, n − k + 1, ... draw one; where it
    is taken already, take the last one instead. k small draws in place of sorting n numbers.
    """
    import torch

    chosen = torch.empty(tokens, k, dtype=torch.int64)
    for place in range(k):
        last = n - k + place
        drawn = torch.randint(last + 1, (tokens,), generator=generator)
        taken = (chosen[:, :place] == drawn[:, None]).any(1)
        chosen[:, place] = torch.where(taken, last, drawn)
    return chosen
