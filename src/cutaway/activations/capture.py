"""Hidden states at named sites, by a forward pass that ends where the last of them is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from cutaway.activations.keeping import Keeper
from cutaway.activations.states import States
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.nets.tokens import Tokens, ids_and_mask, mask_of, token_ids


class _Complete(BaseException):
    """Ends a forward pass from inside. Not an `Exception`, so that no model's code catches it."""


# Hooks sit on the model, which another thread may be running, or a capture within this one.
_running: ContextVar[_Complete | None] = ContextVar("running", default=None)


@door
def capture(
    model: Model,
    tokens: Tensor | Tokens,
    sites: str | int | Site | Sequence[str | int | Site],
    attention_mask: Tensor | None = None,
    *,
    batch_size: int | None = None,
) -> States:
    """The states of tokens (batch, T) at each site, (batch, T, width), in the model's dtype.

    Tokens may be lists, arrays or columns of rows of equal length (`nets.tokens.token_ids`), or what
    `model.tokens([...])` gives, which brings its mask. `batch_size` reads so many rows in a pass
    (None: all of them). Detached, without autograd. `sites` is what `parse_sites` takes: `"all"`,
    `"0,6"`, a list; the result answers to all names of a site. Blocks after the deepest site, the
    final norm and the vocabulary's head are not computed. In rows of padding (attention_mask 0)
    stands whatever the model makes of it. Within a `splice` states are those after it, at the spliced
    site and deeper. A site read alone has the states that it has beside others. Threads may share a
    model. Raises UserError for sites the model lacks and for tokens it cannot read.
    """
    tokens, attention_mask = ids_and_mask(tokens, attention_mask)
    tokens, attention_mask = token_ids(tokens), mask_of(attention_mask)
    wanted = model.sites(sites)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: expected 1 or more")
    if batch_size is None or tokens.ndim != 2 or len(tokens) <= batch_size:
        return _read(model, tokens, wanted, attention_mask, None)[0]
    model.require_readable(tokens, attention_mask)
    parts = []
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, start + batch_size)
        mask = None if attention_mask is None else attention_mask[rows]
        parts.append(_read(model, tokens[rows], wanted, mask, None)[0])
    return States({site: torch.cat([part[site] for part in parts]) for site in wanted})


def capture_with_logits(
    model: Model,
    tokens: Tensor,
    sites: Sequence[Site],
    attention_mask: Tensor | None,
    at: Tensor,
) -> tuple[States, Tensor]:
    """`capture`, and the logits (batch, V) at one place of each row, from one pass to the head."""
    states, logits = _read(model, tokens, list(sites), attention_mask, at)
    if logits is None:  # a pass to the head that ended before it
        raise AssertionError("no logits")
    return states, logits


def _read(
    model: Model, tokens: Tensor, wanted: list[Site], mask: Tensor | None, at: Tensor | None
) -> tuple[States, Tensor | None]:
    """One pass; another where something wrote to states after they had been read."""
    while True:
        keeper, logits = _pass(model, tokens, wanted, mask, at)
        if keeper.whole():
            return States({site: keeper.states[site] for site in wanted}), logits


def _pass(
    model: Model, tokens: Tensor, wanted: list[Site], mask: Tensor | None, at: Tensor | None
) -> tuple[Keeper, Tensor | None]:
    """To the deepest site, or to the head where the places `at` are given."""
    keeper = Keeper(model)
    complete, logits = _Complete(), None

    def keep(site: Site) -> Callable[[Tensor], None]:
        width = model.width_at(site)

        def kept(state: Tensor) -> None:
            if _running.get() is not complete:
                return
            if state.shape != (*tokens.shape, width):
                raise UserError(
                    f"layer = '{site}': {model.reference.id} has states {tuple(state.shape)} there, "
                    f"not one of {width} for each of the tokens {tuple(tokens.shape)}"
                )
            keeper.keep(site, state)
            if at is None and len(keeper.states) == len(wanted):
                raise complete

        return kept

    handles = []
    before = _running.set(complete)
    try:
        handles += [model.hook(site, keep(site)) for site in wanted]
        with torch.no_grad():
            logits = model.logits(tokens, mask, at)
    except _Complete:
        pass
    finally:
        _running.reset(before)
        for handle in handles:
            handle.remove()
    if absent := [site for site in wanted if site not in keeper.states]:
        raise UserError(
            f"layer = '{absent[0]}': {model.reference.id} computes its logits without passing by it"
        )
    return keeper, logits
