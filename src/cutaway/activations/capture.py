"""Hidden states at named sites, by a forward pass that ends where the last of them is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.nets.model import Model, mask_of, token_ids
from cutaway.nets.sites import Site, parse_sites


class _Complete(BaseException):
    """Ends a forward pass from inside. Not an `Exception`, so that no model's code catches it."""


# Hooks sit on the model, which another thread may be running, or a capture within this one.
_running: ContextVar[_Complete | None] = ContextVar("running", default=None)


@door
def capture(
    model: Model,
    tokens: Tensor,
    sites: str | int | Site | Sequence[str | int | Site],
    attention_mask: Tensor | None = None,
) -> dict[Site, Tensor]:
    """The states of tokens (batch, T) at each site: (batch, T, d) in the model's dtype.

    Tokens may be lists, arrays or columns of rows of equal length (`nets.model.token_ids`). Detached, without autograd. `sites` is what `parse_sites` takes: `"all"`, `"0,6"`, a list.
    Blocks after the deepest site, the final norm and the vocabulary's head are not computed. In
    rows of padding (attention_mask 0) stands whatever the model makes of it. Within a `splice`
    states are those after it, at the spliced site and deeper. Threads may share a model. Raises
    UserError for sites the model lacks and for tokens it cannot read.
    """
    tokens, attention_mask = token_ids(tokens), mask_of(attention_mask)
    wanted = parse_sites(sites, model.n_layers)
    states: dict[Site, Tensor] = {}
    complete = _Complete()

    def keep(site: Site) -> Callable[[Tensor], None]:
        def kept(state: Tensor) -> None:
            if _running.get() is not complete:
                return
            if state.shape[:-1] != tokens.shape:
                raise UserError(
                    f"layer = '{site}': {model.reference.id} has states {tuple(state.shape)} there, "
                    f"not one for each of the tokens {tuple(tokens.shape)}"
                )
            states[site] = state.detach()
            if len(states) == len(wanted):
                raise complete

        return kept

    handles = []
    before = _running.set(complete)
    try:
        handles += [model.hook(site, keep(site)) for site in wanted]
        with torch.no_grad():
            model.logits(tokens, attention_mask)
    except _Complete:
        pass
    finally:
        _running.reset(before)
        for handle in handles:
            handle.remove()
    return {site: states[site] for site in wanted}
