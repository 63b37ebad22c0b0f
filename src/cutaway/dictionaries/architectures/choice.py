"""Dense or sparse: measured on this machine, at this size, before training starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.sparse.codes import encode
from cutaway.sparse.pattern import above

if TYPE_CHECKING:
    from cutaway.dictionaries.model.dictionary import Dictionary

_ROUNDS = 3
_SHARES = (0.005, 0.04)  # of entries chosen, at which the sparse way is timed
NEVER_DENSE = 2.0


def break_even(dictionary: Dictionary, x: Tensor, dtype: torch.dtype) -> float:
    """The share of chosen entries from which on the dense way is the faster one, 0 to 2.

    Times encoding, decoding and both gradients of a batch of centred, scaled states x̃ (B, d):
    the dense way once, the sparse way at two shares, between which its time grows linearly. Each
    is the fastest of three rounds, taken in turn.
    """
    z = x[:256] @ dictionary.encoder_weight.detach().T
    flat = z.flatten()
    limits = [float(flat.kthvalue(max(1, int(flat.numel() * (1 - s)))).values) for s in _SHARES]
    best = [float("inf")] * 3
    for _ in range(_ROUNDS):
        for place, (limit, dense) in enumerate(
            [(limits[0], True), *((one, False) for one in limits)]
        ):
            began = time.perf_counter()
            _work(dictionary, x, limit, dense=dense, dtype=dtype)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            best[place] = min(best[place], time.perf_counter() - began)
    dense, low, high = best
    slope = (high - low) / (_SHARES[1] - _SHARES[0])
    if slope <= 0:
        return NEVER_DENSE if low < dense else 0.0
    return min(NEVER_DENSE, max(0.0, _SHARES[0] + (dense - low) / slope))


def _work(
    dictionary: Dictionary, x: Tensor, limit: float, *, dense: bool, dtype: torch.dtype
) -> None:
    weights = (dictionary.encoder_weight, dictionary.encoder_bias, dictionary.decoder_weight)
    weight, bias, rows = (one.detach().requires_grad_() for one in weights)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        codes = encode(x, None, weight, torch.zeros_like(bias), above(limit), dense=dense)
        error = (codes.decode(rows) - x).square().sum()
    torch.autograd.grad(error, (weight, rows))
