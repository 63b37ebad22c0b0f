"""What a model loses while something else stands in for the states at one of its sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.activations.splice import splice
from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.progress import progress
from cutaway.features.reader import Batch
from cutaway.nets.model import Model
from cutaway.nets.sites import Site

_SLICE = 1024  # rows of logits compared at a time
_NAN = float("nan")


def counted_tokens(
    ids: Tensor, mask: Tensor | None, skip: bool, documents: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(batch, T) of booleans: tokens that count, and all.

    Not the first of a context, to `skip`, and none that belongs to no document (-1 in `documents`,
    (batch, T)).
    """
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    counted = real & (real.cumsum(1) > skip)
    if documents is not None and documents.ndim == 2:
        counted &= (documents >= 0).to(counted.device)
    return counted, real


def losses_of(
    model: Model,
    site: Site,
    held: Sequence[Batch],
    conditions: dict[str, Callable[[Tensor], Tensor]],
    device: torch.device,
    skip: bool,
) -> dict[str, tuple[float, float]]:
    """Of `clean` and each condition: mean cross-entropy and KL(clean ‖ condition), nats.

    Tokens at which the model's own logits are not finite count in neither, and a notice says how
    many they are; NaN where no token is left, and of a model without a vocabulary head.
    """
    if not model.abilities.head:
        _rewrite(model, site, held, conditions.values(), device, skip)
        return dict.fromkeys(("clean", *conditions), (_NAN, _NAN))
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in ("clean", *conditions)}
    predicted = compared = broken = 0
    work = sum(ids.numel() for ids, _, _ in held)
    with progress("splicing", work, "tokens") as bar:
        for ids, mask, documents in held:
            counted, real = counted_tokens(ids, mask, skip, documents)
            clean = model.logits(ids, mask)
            sound = clean.amax(-1).isfinite().to(counted.device)  # NaN is the largest of its row
            broken += int((counted & ~sound).sum())
            judged = counted & sound
            # predictions from counted positions of the token after them, where there is one
            follows = judged[:, :-1] & real[:, 1:]
            targets = ids[:, 1:][follows]
            for name, condition in {"clean": None, **conditions}.items():
                changes = {} if condition is None else {site: _change(condition, counted, device)}
                with splice(model, changes) if changes else nullcontext():
                    logits = clean if condition is None else model.logits(ids, mask)
                places = judged.to(logits.device)
                loss = _cross_entropy(logits[:, :-1][follows.to(logits.device)], targets)
                divergence = (
                    0.0 if condition is None else _divergence(clean[places], logits[places])
                )
                sums[name] += torch.tensor([loss, divergence], dtype=torch.float64)
            predicted += len(targets)
            compared += int(judged.sum())
            bar.advance(ids.numel())
    if broken:
        notice(
            f"{broken:,} of {broken + compared:,} tokens have logits that are not finite: left out of "
            "cross-entropy and KL"
        )
    found = {}
    for name, (loss, divergence) in sums.items():
        known = model.causal and predicted
        kl = float(divergence) / compared if compared else _NAN
        found[name] = (float(loss) / predicted if known else _NAN, kl)
    return found


def _rewrite(
    model: Model,
    site: Site,
    held: Sequence[Batch],
    conditions: Iterable[Callable[[Tensor], Tensor]],
    device: torch.device,
    skip: bool,
) -> None:
    """Each condition applied to the states that count: some keep figures of what they rewrite."""
    conditions = list(conditions)
    with progress("rewriting", sum(ids.numel() for ids, _, _ in held), "tokens") as bar:
        for ids, mask, documents in held:
            states = capture(model, ids, [site], mask)[site]
            counted, _ = counted_tokens(ids, mask, skip, documents)
            x = states[counted.to(states.device)].to(device, torch.float32)
            for condition in conditions if len(x) else ():
                condition(x)
            bar.advance(ids.numel())


def _change(
    condition: Callable[[Tensor], Tensor], where: Tensor, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """`condition` applied to the states at `where` (batch, T); the others stay."""

    def change(state: Tensor) -> Tensor:
        if not where.any():
            return state
        written = state.clone()
        chosen = where.to(state.device)
        written[chosen] = condition(state[chosen].to(device, torch.float32)).to(written)
        return written

    return change


def _cross_entropy(logits: Tensor, targets: Tensor) -> float:
    total = 0.0
    for part, wanted in zip(logits.split(_SLICE), targets.to(logits.device).split(_SLICE)):
        total += float(
            hardware.widened(F.cross_entropy(part.float(), wanted, reduction="none")).sum()
        )
    return total


def _divergence(clean: Tensor, other: Tensor) -> float:
    """Σ over rows of KL(softmax(clean) ‖ softmax(other))."""
    total = 0.0
    for one, two in zip(clean.split(_SLICE), other.split(_SLICE)):
        p, q = one.float().log_softmax(-1), two.float().log_softmax(-1)
        total += float((p.exp() * (p - q)).to(hardware.wide(p.device)).sum())
    return total


def recovered_from(losses: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """`ce`, `ce_recovered`, `kl`, `kl_recovered` of each condition."""
    clean, (zero, kl_zero) = losses["clean"][0], losses["zero"]
    harm = zero - clean
    found = {}
    for name, (loss, kl) in losses.items():
        found[name] = {
            "ce": loss,
            "ce_recovered": (zero - loss) / harm if harm > 0 or math.isnan(harm) else _NAN,
            "kl": kl,
            "kl_recovered": 1 - kl / kl_zero if kl_zero > 0 else _NAN,
        }
    return found
