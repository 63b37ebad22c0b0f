"""What an instrument saw at one moment of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from cutaway.base.errors import UserError
from cutaway.grokking.histories import Recorded
from cutaway.runs import table as tables

if TYPE_CHECKING:
    import pyarrow as pa

ROUTING = "routing"


def routing_at(run: Recorded, share: float) -> pa.Table:
    """The routing snapshot at `share` of a run's training: 0 its start, 1 its last recorded step.

    Returns the rows of the run's table `routing` (step, a, b, dominant, weight_0, ...) of the
    recorded step nearest to share · last step, the earlier of two. Raises `UserError` for a run
    without routing and a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share = {share}: expected 0 (start of training) to 1 (its end)")
    routing = tables.read(run.path, ROUTING) if run.path.is_dir() else None
    if routing is None or len(routing) == 0:
        raise UserError(f"{run.name}: has no table {ROUTING}; `save_routing_every` records it")
    history = tables.read(run.path, "history")
    steps = np.unique(routing["step"].to_numpy())
    last = steps[-1] if history is None else max(steps[-1], pc.max(history["step"]).as_py())
    nearest = steps[np.argmin(np.abs(steps - share * last))]
    return routing.filter(pc.equal(routing["step"], int(nearest)))
