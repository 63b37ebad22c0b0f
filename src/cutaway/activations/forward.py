"""Forward passes that get by with less memory: the batch halves itself once, and says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.sites import Site


class Forward:
    """`capture` of contexts, `batch_size` at a time; calls `tell` when that had to be halved.

    A second time, or at one context, it raises UserError with what to change.
    """

    def __init__(
        self, model: Model, sites: Sequence[Site], batch_size: int, tell: Callable[[str], None]
    ):
        self.model, self.sites, self.batch_size = model, list(sites), batch_size
        self.tell = tell
        self._halved = False

    def __call__(self, tokens: Tensor) -> dict[Site, Tensor]:
        """The states of tokens (contexts, T) at each site, (contexts, T, d)."""
        try:
            return self._states(tokens)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Outside the handler: the error's traceback would keep the failed pass's tensors alive.
        size = self.batch_size
        if size == 1 or self._halved:
            raise UserError(
                f"out of memory at batch_size = {size}, {tokens.shape[1]} tokens each: give a "
                "smaller batch_size or context_length, fewer layers, or --device cpu"
            )
        self._halved, self.batch_size = True, size // 2
        self.tell(f"out of memory: batch_size halved from {size} to {self.batch_size}")
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self(tokens)

    def _states(self, tokens: Tensor) -> dict[Site, Tensor]:
        tokens = tokens.to(self.model.device)
        parts = [capture(self.model, part, self.sites) for part in tokens.split(self.batch_size)]
        if len(parts) == 1:
            return parts[0]
        return {site: torch.cat([part[site] for part in parts]) for site in self.sites}


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory was what failed: of a GPU, or of the CPU's allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
