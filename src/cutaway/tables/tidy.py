"""Histories recorded by others, brought into our shape: names, types, steps, units.

    ours                            also read as it (any case, any of `_ - . / :` and space between words)
    step                            global_step, _step, iteration, iter, iter_num, update, epoch;
                                    steps, iterations, iters, updates, epochs
    train_acc, train_loss           acc, accuracy, loss alone, or with train, training, tr
    val_acc, val_loss               the same with val, valid, validation, dev, eval, evaluation
    test_acc, test_loss             the same with test, testing, heldout, holdout

Where several columns could be one of ours, the one spelled as ours is, else the first, with a notice;
the others keep their names, as every other column does. Of several steps the first in the table above
counts, if it holds whole numbers. Names that differ in case only, which SQL takes for one, are told
apart: the second of `Loss` and `loss` becomes `loss_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cutaway.base.errors import UserError
from cutaway.tables.names import told_apart

STEPS = (
    *("step", "global_step", "iteration", "iter", "iter_num", "update", "epoch"),
    *("steps", "iterations", "iters", "updates", "epochs"),
)
SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "heldout", "holdout"), "test"),
}
METRICS = {
    **dict.fromkeys(("acc", "accuracy", "accuracies"), "acc"),
    **dict.fromkeys(("loss", "losses"), "loss"),
}
OURS = (
    "step",
    *(f"{split}_{metric}" for split in ("train", "val", "test") for metric in ("acc", "loss")),
)
TAKEN = ("run", "not_finite")  # columns of the views
_INDEX = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
_ROUNDING = 1e-6  # a mean of ones in float32 may come out this much above 1


def tidy(table: pa.Table, origin: str) -> tuple[pa.Table, list[str]]:
    """`table` as a history of ours, and a notice for whatever had to be changed or left out.

    The result has an int64 column `step`, rising and without repeats, then int64 and float64
    columns under our names. Rows of a repeated step become one, each column with its last recorded
    value. Without any column for steps the row's number is the step. Steps with fractions (epochs as
    trainers log them) become a column `epoch`, and their place in order is the step. Accuracies given as
    percentages become shares. Nulls stay null and NaN stays NaN; a tidy table comes back as it is.

    Raises `UserError`, beginning with `origin`, for text in a column that means something to us,
    steps that are no whole numbers, accuracies outside 0 to 100, and where nothing is left.
    """
    notices: list[str] = []
    if len(table) == 0:
        raise UserError(f"{origin}: holds no rows")
    columns = _numeric(_told_apart(table, notices), origin, notices)
    steps = columns.pop("step", None)
    if steps is not None and _fractional(steps):
        steps = _whole_instead(steps, columns, origin, notices)
    if not columns:
        raise UserError(f"{origin}: no column of numbers besides the step")
    if steps is None:
        notices.append("no column step (nor epoch, iteration): the row's number is the step")
        steps = pa.array(np.arange(len(table)))
    tidied = pa.table({"step": steps, **columns})
    tidied = _one_row_per_step(_whole_steps(tidied, origin, notices), notices)
    return _as_shares(tidied, origin, notices), notices


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Each name that means one of our columns → ours, by the table above."""
    names = list(names)
    chosen = {name: name for name in names if name in OURS}
    taken = set(chosen)
    by_rank = sorted(
        (STEPS.index(spelled), name) for name in names if (spelled := _spelled(name)) in STEPS
    )
    if "step" not in taken and by_rank:
        chosen[by_rank[0][1]] = "step"
        taken.add("step")
    for name in names:
        meant = _meant(name)
        if name not in chosen and meant is not None and meant not in taken:
            chosen[name] = meant
            taken.add(meant)
    return chosen


def is_step(name: str) -> bool:
    """Whether a column of this name can be the step."""
    return _spelled(name) in STEPS


def _words(name: str) -> list[str]:
    """`Train/Accuracy`, `trainAccuracy` → train, accuracy."""
    return re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def _spelled(name: str) -> str:
    return "_".join(_words(name))


def _meant(name: str) -> str | None:
    words = _words(name)
    splits = [SPLITS[word] for word in words if word in SPLITS]
    metrics = [METRICS[word] for word in words if word in METRICS]
    if len(metrics) != 1 or len(splits) > 1 or len(splits) + 1 != len(words):
        return None
    return f"{splits[0] if splits else 'train'}_{metrics[0]}"


def _numeric(table: pa.Table, origin: str, notices: list[str]) -> dict[str, pa.ChunkedArray]:
    """The columns of numbers under our names, without those that hold nothing at all."""
    ours = renamed(table.column_names)
    kept: dict[str, pa.ChunkedArray] = {}
    _tell_ties(table.column_names, ours, notices)
    left_out: dict[str, list[str]] = {}
    for raw, column in zip(table.column_names, table.columns):
        name = ours.get(raw, raw)
        if column.null_count == len(column):
            if name == "step":
                raise UserError(f"{origin}: no row has a step")
            continue
        if _INDEX.fullmatch(raw):
            left_out.setdefault("row numbers", []).append(raw or "(no name)")
        elif raw.lower() in TAKEN:
            left_out.setdefault("the name is taken in queries", []).append(raw)
        elif (numbers := _numbers(column)) is not None:
            kept[_free(name, kept, notices)] = numbers
        elif name in OURS:
            raise UserError(f"{origin}: column {raw} holds {_example(column)}; expected numbers")
        else:
            left_out.setdefault("no numbers", []).append(raw)
    notices += [f"left out ({why}): {_listed(names)}" for why, names in left_out.items()]
    return kept


def _told_apart(table: pa.Table, notices: list[str]) -> pa.Table:
    """The table with names that differ, without regard to case; those spelled as ours come first."""
    names = table.column_names
    order = sorted(range(len(names)), key=lambda place: names[place] not in OURS)
    unnamed = [place for place in order if not names[place]]  # row numbers, left out later
    apart = dict(zip(order, told_apart(names[place] for place in order)))
    apart |= dict.fromkeys(unnamed, "")
    for place in sorted(apart):
        if apart[place] != names[place]:
            notices.append(
                f"column {names[place]!r} is there twice without regard to case: the one in place "
                f"{place + 1} is called {apart[place]}"
            )
    return table.rename_columns([apart[place] for place in range(len(names))])


def _tell_ties(names: Sequence[str], ours: dict[str, str], notices: list[str]) -> None:
    """Say which column was taken where several could be one of ours and none is spelled so."""
    for name, own in ours.items():
        others = [one for one in names if one != name and _meant(_first(one)) == own]
        if own != "step" and name != own and others:
            notices.append(
                f"{_listed([name, *others])} could be {own}: {name} is taken, the rest keep their names"
            )


def _first(name: str) -> str:
    """`loss_2`, as `_told_apart` made it → `loss`."""
    return re.sub(r"_\d+$", "", name)


def _free(name: str, kept: dict[str, pa.ChunkedArray], notices: list[str]) -> str:
    """A name that no kept column has in any case."""
    apart = told_apart([*kept, name])[-1]
    if apart != name:
        notices.append(f"column {name} is called {apart}: the name is there already")
    return apart


def _fractional(steps: pa.ChunkedArray) -> bool:
    """Whether steps are numbers, all of a size that steps can have, and some are no whole ones."""
    if not pa.types.is_floating(steps.type):
        return False
    values = steps.drop_null().to_numpy()
    values = values[~np.isnan(values)]
    fits = np.isfinite(values) & (np.abs(values) < 2**53)
    return bool(fits.all() and (values != np.floor(values)).any())


def _whole_instead(
    steps: pa.ChunkedArray,
    columns: dict[str, pa.ChunkedArray],
    origin: str,
    notices: list[str],
) -> pa.ChunkedArray:
    """Whole steps in place of those with fractions, which stay as the column `epoch`: another column
    of steps, or else their places in order."""
    name = told_apart([*columns, "epoch"])[-1]
    columns[name] = steps
    for other in sorted(filter(is_step, columns), key=lambda one: STEPS.index(_spelled(one))):
        if other != name and not _fractional(columns[other]):
            notices.append(f"steps have fractions: kept as {name}; {other} is the step")
            return columns.pop(other)
    values = steps.to_numpy().astype(float)
    known = ~np.isnan(values)
    if not known.any():
        raise UserError(f"{origin}: no row has a step")
    places = np.zeros(len(values), np.int64)
    places[known] = np.unique(values[known], return_inverse=True)[1]
    example = values[known & (values != np.floor(values))][0]
    notices.append(
        f"steps have fractions ({example:g}): kept as the column {name}; their place in order is the step"
    )
    return pa.chunked_array([pa.array(places, mask=~known)])


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """As int64 or float64; None where the column holds no numbers."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # unsigned, beyond 2^63
            return column.cast(pa.float64(), safe=False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    return None


def _example(column: pa.ChunkedArray) -> str:
    """What a column holds that is no number, for a message: its first value."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return f"values of type {column.type}"
    for row, value in enumerate(column.to_pylist(), start=1):
        try:
            float(value or 0)
        except ValueError:
            return f"the text {value[:40]!r} (row {row})"
    return "numbers written as text"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _whole_steps(table: pa.Table, origin: str, notices: list[str]) -> pa.Table:
    """Rows that have a step, which is a whole number."""
    steps = table["step"]
    known = pc.is_valid(steps)
    if pa.types.is_floating(steps.type):
        known = pc.fill_null(pc.and_kleene(known, pc.invert(pc.is_nan(steps))), False)
    if missing := len(table) - pc.sum(known).as_py():
        if missing == len(table):
            raise UserError(f"{origin}: no row has a step")
        notices.append(f"left out {missing} {'row' if missing == 1 else 'rows'} without a step")
        table = table.filter(known)
        steps = table["step"]
    if pa.types.is_floating(steps.type):
        values = steps.to_numpy()
        odd = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= 2**53)
        if odd.any():
            value = float(values[odd][0])
            raise UserError(f"{origin}: step = {value:g}: expected a whole number")
        table = table.set_column(0, "step", pa.array(values.astype(np.int64)))
    return table


def _one_row_per_step(table: pa.Table, notices: list[str]) -> pa.Table:
    rises = np.diff(table["step"].to_numpy())
    if (rises > 0).all():
        return table
    if (rises < 0).any():
        notices.append("steps were out of order: sorted")
    steps = len(pc.unique(table["step"]))
    if steps < len(table):
        notices.append(
            f"steps that repeat ({len(table) - steps}): the last value of each column counts"
        )
        names = table.column_names
        numbered = table.rename_columns([str(n) for n in range(len(names))])  # any name will do
        grouped = numbered.group_by("0", use_threads=False)  # `last` needs the order of the rows
        merged = grouped.aggregate([(str(n), "last") for n in range(1, len(names))])
        merged = merged.select(["0", *(f"{n}_last" for n in range(1, len(names)))])
        table = merged.rename_columns(names)
    return table.sort_by("step")


def _as_shares(table: pa.Table, origin: str, notices: list[str]) -> pa.Table:
    """Accuracies as shares. Whether they are percentages is judged on all of them together."""
    names = [name for name in table.column_names if name.endswith("_acc") and name in OURS]
    largest = 0.0
    for name in names:
        values = table[name].drop_null().to_numpy()
        odd = (values < -_ROUNDING) | (values > 100 * (1 + _ROUNDING))
        if odd.any():
            raise UserError(
                f"{origin}: {name} = {values[odd][0]:g}: "
                "an accuracy is a share (0 to 1) or a percentage (0 to 100)"
            )
        largest = max(largest, np.max(values[~np.isnan(values)], initial=0.0))
    if largest <= 1 + _ROUNDING:
        return table
    notices.append(f"accuracies up to {largest:g} are percentages: divided by 100")
    for name in names:
        share = pc.divide(table[name].cast(pa.float64()), 100.0)
        table = table.set_column(table.column_names.index(name), name, share)
    return table
