"""Rankings in which a number that is not finite never wins."""

from __future__ import annotations

import math


def rank(value: float | None) -> float:
    """`value` as a key of `max` and of sorting upwards: NaN, infinities and a missing value come
    last. `max` alone keeps a NaN that happens to be first."""
    return value if value is not None and math.isfinite(value) else -math.inf
