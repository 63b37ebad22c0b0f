"""Parts of a loss that stayed the same through a whole training: most likely they do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FEWEST = 3  # rows below which nothing can be said
_PARTS = ("_loss", "_penalty")
_JUDGED = ("val_", "test_")  # figures of an evaluation are no parts of a loss


def unmoved(history: pa.Table) -> list[str]:
    """A line for each part of the loss (a column `..._loss` or `..._penalty`) whose value was the
    same in every row that has it, of three or more."""
    import pyarrow.compute as pc

    lines = []
    for name in history.column_names:
        if not name.endswith(_PARTS) or name.startswith(_JUDGED):
            continue
        values = history[name].drop_null()
        if len(values) < _FEWEST:
            continue
        ends = pc.min_max(values).as_py()
        if ends["min"] == ends["max"]:
            lines.append(
                f"{name} was {ends['min']:g} in all {len(values)} rows that have it: "
                "this part of the loss never moved"
            )
    return lines
