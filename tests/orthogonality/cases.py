"""Made-up features for the tests of the orthogonality penalty, whose sums are exact."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.sparse.codes import SparseCodes
from cutaway.sparse.pattern import Pattern


def made_up(seed: int, tokens: int = 30, features: int = 24, share: float = 0.2) -> Tensor:
    """Features (tokens, F) in eighths, so that every sum is exact; some features never active."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 17, (tokens, features), generator=generator) / 8
    often = share * 2 * torch.rand(features, generator=generator)
    often[torch.rand(features, generator=generator) < 0.2] = 0
    return sizes * (torch.rand(tokens, features, generator=generator) < often)


def sparse(f: Tensor, *, near: bool = False) -> SparseCodes:
    """The same as sparse codes; `near`: with places that hold zeros, as JumpReLU's do."""
    held = f != 0
    if near:
        held |= torch.rand(f.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    flat = held.view(-1).nonzero().view(-1)
    return SparseCodes(f.reshape(-1)[flat], Pattern(flat, tuple(f.shape)))
