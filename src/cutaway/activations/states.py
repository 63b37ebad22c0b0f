"""What `capture` gives: states by site, under every name that a site has."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.nets.sites import Site, parse_site

T = TypeVar("T")


class MissingState(UserError, KeyError):
    """A site that was not captured."""

    def __str__(self) -> str:
        return str(self.args[0])


class States(dict[Site, Tensor]):
    """States (batch, T, width of the site) by `Site`; iterates like the dict that it is.

    `states["residual.2"]`, `states[2]`, `states["blocks.2.hook_resid_post"]` and
    `states[Site("residual", 2)]` are one. MissingState (a UserError and a KeyError) for a site that
    was not captured, UserError for what names none.
    """

    def __missing__(self, key: Any) -> Tensor:
        site = parse_site(key)
        if not dict.__contains__(self, site):
            raise MissingState(
                f"site = {str(key)!r}: not among those captured ({', '.join(map(str, self))})"
            )
        return dict.__getitem__(self, site)

    def __contains__(self, key: object) -> bool:
        try:
            return dict.__contains__(self, parse_site(key))  # type: ignore[arg-type]
        except (UserError, TypeError):
            return False

    def get(self, key: Any, default: Any = None) -> Any:
        """The states at a site, or `default` where it was not captured."""
        return self[key] if key in self else default  # noqa: SIM401 (get calls get)

    def numpy(self) -> dict[Site, np.ndarray]:
        """The same as arrays; bfloat16, which NumPy lacks, as float32."""
        found = {}
        for site, state in self.items():
            short = state.dtype.itemsize < 4
            found[site] = (state.float() if short else state).cpu().numpy()
        return found
