"""Which pairs of features were selected, and their cosines, while a dictionary learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from cutaway.orthogonality.stability import sketch
from cutaway.training.instruments import Moment, Stateless

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.orthogonality.penalty import Orthogonality

SIZE = 512  # pairs a reading keeps


class Pairs(Stateless):
    """Table `pairs`: `step`, `i` < `j`, `score` (mean over tokens of fᵢfⱼ), `cosine` (signed).

    A reading keeps all selected pairs, or where there are more than 512 those whose hash is least
    (`stability.sketch`): a uniform sample, so its cosines are distributed as all pairs' are, in
    which pairs recur from reading to reading as they do in the whole, so that the overlap of any
    two readings is that of their `stability.sketch_overlap`, give or take 0.02. A hundred readings
    are 51,200 rows, a few hundred kilobytes. Nothing where the penalty selects no pairs
    (`all_pairs`).
    """

    name = "pairs"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> pa.Table | list[pa.Table]:
        tasks = getattr(at.task, "tasks", None)
        if tasks is None:
            return pairs_table(getattr(at.task, "orthogonality", None), at.step)
        return [pairs_table(getattr(one, "orthogonality", None), at.step) for one in tasks]


def pairs_table(penalty: object | None, step: int) -> pa.Table:
    """The table's rows of one step, from the penalty as the step's loss left it."""
    import pyarrow as pa

    known = cast("Orthogonality | None", penalty)
    if known is None or known.selection is None or known.cosines is None:
        chosen, figures = (torch.zeros(0, dtype=torch.int64),) * 2, (torch.zeros(0),) * 2
    else:
        selection = known.selection
        keep = sketch(selection.ids, SIZE)
        chosen = selection.first[keep], selection.second[keep]
        figures = selection.scores_of(keep), known.cosines[keep]
    columns = {"step": torch.full_like(chosen[0], step), "i": chosen[0], "j": chosen[1]}
    columns |= {"score": figures[0].double(), "cosine": figures[1].double()}
    return pa.table({name: value.cpu().numpy() for name, value in columns.items()})
