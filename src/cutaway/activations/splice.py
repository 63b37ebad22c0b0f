"""Doing things to a model: another state in the place of its own, while it runs.

with splice(model, {"residual.6": steer(direction, 4.0)}):
    model.logits(tokens)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from cutaway.base.columns import tensor
from cutaway.base.doors import door
from cutaway.base.errors import UserError, require_finite
from cutaway.nets.model import Model
from cutaway.nets.sites import Site

Change: TypeAlias = Callable[[Tensor], Tensor]
"""From the state at a site, (batch, T, d), to the state to go on with, of the same shape."""

Positions: TypeAlias = "int | slice | Sequence[int] | Sequence[bool] | Tensor | None"
"""Which tokens: one, a slice, several, a mask (T,) or (batch, T) of booleans, or None for all."""


@contextmanager
@door
def splice(model: Model, changes: Mapping[Site | str | int, Change]) -> Iterator[Model]:
    """Within it the state at each site is replaced by `change(state)`, (batch, T, d) → the same.

    Works on `model.logits` and on `capture`; what lies deeper sees the change. Splices nest: the
    inner one gets what the outer one made. A change may compute in another dtype; its result is
    cast to the model's. Other threads that use the model meanwhile see none of it. Afterwards, also
    after an error, the model is as before. Raises UserError for a site the model lacks and for a
    result of another shape.
    """
    handles = []
    try:
        for name, change in changes.items():
            site = model.site(name)
            handles.append(model.hook(site, _checked(site, change)))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def replace(value: Tensor | float, positions: Positions = None) -> Change:
    """`value` in the state's place; it is broadcast: a number, (d,), (T, d) or (batch, T, d)."""

    value = tensor(value, "value")

    def change(state: Tensor) -> Tensor:
        return _put(state, value, positions)

    return change


def ablate(mean: Tensor | None = None, positions: Positions = None) -> Change:
    """Zero in the state's place (zero ablation) or the `mean` (d,) over some text (mean ablation)."""
    return replace(0.0 if mean is None else mean, positions)


def patch(other_states: Tensor, positions: Positions = None) -> Change:
    """The state of another prompt, (batch, T, d), at these positions of both prompts.

    Activation patching (Meng et al. 2022, arXiv 2202.05262; Heimersheim & Nanda 2024, 2404.15255).
    """
    return replace(other_states, positions)


@door
def steer(direction: Tensor, strength: float = 1.0, positions: Positions = None) -> Change:
    """state + strength · direction, direction (d,) taken as it is, not normalised.

    The sum is made in float32 and rounded once to the model's dtype. Raises UserError for a
    strength that is not finite.
    """
    strength = require_finite("strength", strength)

    direction = tensor(direction, "direction")

    def change(state: Tensor) -> Tensor:
        if direction.shape != state.shape[-1:]:
            raise UserError(
                f"splice: a direction of shape {tuple(direction.shape)}, the states are "
                f"{state.shape[-1]} wide"
            )
        step = strength * direction.to(
            state.device, torch.promote_types(state.dtype, torch.float32)
        )
        return _put(state, state + step, positions)

    return change


def _checked(site: Site, change: Change) -> Callable[[Tensor], Tensor | None]:
    thread = threading.get_ident()

    def checked(state: Tensor) -> Tensor | None:
        if threading.get_ident() != thread:
            return None
        changed = change(state)
        if not isinstance(changed, Tensor) or changed.shape != state.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(f"splice at {site}: expected states {tuple(state.shape)}, got {got}")
        moved = changed.to(state.device, state.dtype)
        # A copy of what may be the caller's: some architectures add into the tensor they are given.
        return moved.clone() if moved is changed and changed is not state else moved

    return checked


def _put(state: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """`state` with `value` at `positions`, in the state's dtype."""
    value = value.to(state.device, state.dtype)
    try:
        value = value.expand_as(state).contiguous()
    except RuntimeError:
        raise UserError(
            f"splice: a value of shape {tuple(value.shape)} does not fit states "
            f"{tuple(state.shape)} (batch, T, d)"
        ) from None
    if positions is None:
        return value
    return torch.where(_mask(state, positions)[..., None], value, state)


def _mask(state: Tensor, positions: Positions) -> Tensor:
    """`positions` as booleans that broadcast to (batch, T)."""
    chosen = positions
    if not isinstance(chosen, slice):  # a list may be a mask too
        chosen = tensor([chosen] if isinstance(chosen, int) else chosen, "positions")
    if isinstance(chosen, Tensor) and chosen.dtype == torch.bool:
        if chosen.shape not in (state.shape[:2], state.shape[1:2]):
            raise UserError(
                f"positions: a mask of shape {tuple(chosen.shape)}, expected (T,) or (batch, T) "
                f"= {tuple(state.shape[:2])}"
            )
        return chosen.to(state.device)
    mask = torch.zeros(state.shape[1], dtype=torch.bool)
    try:
        mask[chosen.long() if isinstance(chosen, Tensor) else chosen] = True
    except IndexError:
        raise UserError(f"positions = {positions}: the prompt has {len(mask)} tokens") from None
    return mask.to(state.device)
