"""Windows of block_size + 1 consecutive tokens: inputs are the first block_size, targets the last.

Random ones for training, a pure function of (seed, step); evenly spaced ones for evaluation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.columns import column
from cutaway.base.doors import door
from cutaway.base.errors import UserError, require_whole
from cutaway.base.seeds import numpy_generator

if TYPE_CHECKING:
    import torch


@door
def starts(
    n_tokens: int, block_size: int, count: int, seed: int, step: int, *, what: str = "the corpus"
) -> np.ndarray:
    """First positions of `count` random windows, int64 (count,): the same for the same seed and step.

    Uniform over all n_tokens − block_size places, drawn with replacement. Raises UserError where
    not one window fits; `what` names the tokens in it.
    """
    places = _places(require_whole("n_tokens", n_tokens, 0), block_size, what)
    require_whole("count", count, 0)
    return numpy_generator(seed, step, "windows").integers(0, places, count, dtype=np.int64)


@door
def spaced_windows(
    tokens: np.ndarray, block_size: int, count: int, *, what: str = "validation"
) -> np.ndarray:
    """First positions of `count` windows spread evenly from the first to the last place, int64.

    They overlap only where the tokens are too few for `count` windows side by side; where there
    are fewer places than `count`, every place is given once.
    """
    places = _places(len(tokens), block_size, what)
    count = min(count, places)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(count, dtype=np.int64) * (places - 1) // (count - 1)


@door
def gather(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> torch.Tensor:
    """The windows at `starts` (count,) of the tokens (n,), as int64 (count, block_size + 1).

    Raises UserError for arrays of anything but whole numbers, and for windows outside the tokens.
    """
    import torch

    tokens, starts = _whole("tokens", tokens), _whole("starts", starts)
    require_whole("block_size", block_size, 1)
    places = _places(len(tokens), block_size, "tokens")
    if len(starts) and not (starts.min() >= 0 and starts.max() < places):
        raise UserError(
            f"starts = {starts.min()} to {starts.max()}: expected 0 to {places - 1}, where windows of "
            f"block_size + 1 = {block_size + 1:,} tokens fit"
        )
    windows = np.lib.stride_tricks.sliding_window_view(tokens, block_size + 1)
    return torch.from_numpy(windows[starts].astype(np.int64))


def _whole(name: str, given: np.ndarray) -> np.ndarray:
    """An array of whole numbers (n,); a memory-mapped one is not read."""
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "iu":
        return given
    values = column(given, name)
    if any(
        isinstance(one, bool) or not isinstance(one, int) or abs(one) >= 2**63 for one in values
    ):
        raise UserError(f"{name}: expected whole numbers below 2^63")
    return np.array(values, dtype=np.int64)


def _places(n_tokens: int, block_size: int, what: str) -> int:
    if n_tokens <= block_size:
        raise UserError(
            f"{what} has {n_tokens:,} tokens, fewer than block_size + 1 = {block_size + 1:,}; "
            "use a longer text or a smaller block_size"
        )
    return n_tokens - block_size
