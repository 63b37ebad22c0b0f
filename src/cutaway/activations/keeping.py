"""Keeping states while a forward pass goes on: as they are where that is safe, else as copies.

Some architectures add into a tensor that a hook was given (Falcon's MLP output becomes the sum with
attention), so a state kept as it is would change after it was read. Tensors count how often they are
written to (`_version`): a pass after which a kept state has another count is repeated, and that site
is copied from then on. Where nothing is written to, nothing is ever copied.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from cutaway.nets.model import Model
from cutaway.nets.sites import Site

_written: WeakKeyDictionary[Model, set[Site]] = WeakKeyDictionary()  # found by earlier passes


class Keeper:
    """The states of one pass."""

    def __init__(self, model: Model):
        self.states: dict[Site, Tensor] = {}
        self._written = _written.setdefault(model, set())
        self._counts: dict[Site, int] = {}  # of those kept as they are

    def keep(self, site: Site, state: Tensor) -> None:
        """Take the state that a hook was given."""
        state = state.detach()
        if site in self._written or state.is_inference():  # those of inference mode do not count
            self.states[site] = state.clone()
            return
        self.states[site], self._counts[site] = state, state._version

    def whole(self) -> bool:
        """Whether all states still are what they were when read; to be asked after the pass."""
        changed = [
            site for site, count in self._counts.items() if self.states[site]._version != count
        ]
        self._written.update(changed)
        return not changed
