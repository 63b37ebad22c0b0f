"""One random stream per (seed, step, purpose), so that any step can be drawn again alone.

A run that is cut into pieces by saves equals the whole bit for bit because no stream carries
state from one step to the next: each is made afresh from three names. The mixer is splitmix64
(Steele, Lea & Flood 2014), whose outputs for neighbouring inputs are uncorrelated.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

_MASK = 2**64 - 1


def _splitmix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@lru_cache
def _purpose(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def stream(seed: int, step: int = 0, purpose: str = "") -> int:
    """A 63-bit seed that belongs to (seed, step, purpose) alone. `step` may be negative."""
    value = _splitmix64(seed & _MASK)
    value = _splitmix64(value ^ (step & _MASK))
    return _splitmix64(value ^ _purpose(purpose)) >> 1


def torch_generator(
    seed: int, step: int = 0, purpose: str = "", device: str | torch.device = "cpu"
) -> torch.Generator:
    """A torch generator at the start of stream (seed, step, purpose)."""
    import torch

    return torch.Generator(device).manual_seed(stream(seed, step, purpose))


def numpy_generator(seed: int, step: int = 0, purpose: str = "") -> np.random.Generator:
    """A NumPy generator at the start of stream (seed, step, purpose)."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(stream(seed, step, purpose)))
