"""The order of the residues in which a modular operation is addition on a circle.

Modulo a prime p, multiplication is addition of discrete logarithms: g^i · g^j = g^(i + j mod p - 1)
for a primitive root g. Written in that order every operation has the same circuit, so spectra and
progress measures are computed there once for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cutaway.base.errors import UserError


@dataclass(frozen=True)
class Circle:
    """Residues in circular order: (first[i], second[j]) has the result classes[(i + j) mod n].

    All are (n,) int64. n = p for add and subtract, p - 1 for multiply and divide (0 is left out).
    """

    first: Tensor
    second: Tensor
    classes: Tensor

    @property
    def n(self) -> int:
        """How many places the circle has."""
        return len(self.first)


@lru_cache
def circle(operation: str, p: int) -> Circle:
    """The circle of an operation modulo p.

    add: first = second = classes = 0, 1, ..., p - 1. subtract: second = 0, -1, -2, ... multiply:
    all three g^0, g^1, ..., with g the smallest primitive root. divide: second = g^0, g^-1, ...
    Raises UserError for any other operation, and for multiply and divide where p is no prime.
    """
    places = torch.arange(p)
    if operation == "add":
        return Circle(places, places, places)
    if operation == "subtract":
        return Circle(places, -places % p, places)
    if operation not in ("multiply", "divide"):
        raise UserError(
            f"operation = {operation!r}: not defined; expected add, subtract, multiply or divide"
        )
    powers = _powers(p)
    second = powers.roll(-1).flip(0) if operation == "divide" else powers
    return Circle(powers, second, powers)


def residues(operation: str, p: int) -> Tensor:
    """The residues in the operation's circular order where it has one, else 0, 1, ..., p - 1."""
    try:
        return circle(operation, p).first
    except UserError:
        return torch.arange(p)


def in_order(table: Tensor, operation: str) -> Tensor:
    """A table over a and b, (..., p, p, classes), with both in the order of `residues`.

    For multiply and divide that is by discrete logarithm and without 0, so (..., p - 1, p - 1,
    classes); for the others the table itself.
    """
    p = table.shape[-2]
    order = residues(operation, p)
    if len(order) == p:
        return table
    order = order.to(table.device)
    return table.index_select(-3, order).index_select(-2, order)


def _powers(p: int) -> Tensor:
    """g^0, ..., g^(p - 2) of the smallest g whose powers are all residues but 0."""
    for root in range(1, p):
        powers = [1]
        while (following := powers[-1] * root % p) not in (0, 1):
            powers.append(following)
            if len(powers) >= p:
                break
        if len(powers) == p - 1:
            return torch.tensor(powers)
    raise UserError(f"p = {p}: discrete logarithms are not defined; expected a prime")
