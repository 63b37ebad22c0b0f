"""Many runs side by side: aligned by step, grouped by a setting, a sweep in one table.

A run is one of ours (`Run`), a `Log`, or the path of either; `cutaway.grokking.histories` says how
they are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from cutaway.base.errors import UserError, nearest
from cutaway.grokking.histories import (
    History,
    Recorded,
    config_of,
    has_failed,
    history_if_any,
    history_of,
    named,
    setting,
)
from cutaway.grokking.phases import Phases, phases, was_evaluated

How = Literal["final", "min", "max", "mean"]
_PHASES = ("memorised", "grokked", "plateau", "delay", "share_kept", "variance_after", "lost")
_OF_KEPT = ("grokked", "plateau", "delay")  # no result of a run that lost it again
_MEMBER = re.compile(r"(?<=.)[_\-./](?:s|seed|m|member)[_\-=.]?\d+$", re.IGNORECASE)


def align(runs: Iterable[History] | Mapping[str, History], metric: str) -> pa.Table:
    """One table with `step` and a column per run holding its `metric`; null where it has no row.

    Steps are all those any run recorded, in order. Columns are the runs' names (paths where those
    repeat), or the keys of a mapping. Raises `UserError` for a run that lacks the metric.
    """
    histories = {name: history_of(one) for name, one in named(runs).items()}
    if not histories:
        raise UserError("align: no runs given")
    if "step" in histories:
        raise UserError("align: a run cannot be called 'step', which is the first column")
    for name, table in histories.items():
        _require(table, metric, name)
    steps = np.unique(np.concatenate([table["step"].to_numpy() for table in histories.values()]))
    columns = {"step": pa.array(steps)}
    for name, table in histories.items():
        rows = np.full(len(steps), -1)
        rows[np.searchsorted(steps, table["step"].to_numpy())] = np.arange(len(table))
        columns[name] = table[metric].take(pa.array(rows, mask=rows < 0)).combine_chunks()
    return pa.table(columns)


def group_by(
    runs: Iterable[Recorded], hyperparameter: str, metric: str, *, how: How = "final", **thresholds
) -> pa.Table:
    """`metric` over the runs that share a value of `hyperparameter`: mean, std, count, missing.

    A run's figure is the last recorded value of the column `metric` (or `min`, `max`, `mean` of its
    finite ones, by `how`), or of the phases memorised, grokked, plateau, delay, share_kept,
    variance_after, lost (with the `thresholds` of `phases`). `count` runs have a finite one;
    `missing` are those that do not (not reached, diverged, not recorded, or the run failed; of
    grokked, plateau and delay also those that grokked and lost it). std is that
    between runs (n − 1), null for one run. `a.b` names a nested setting, which may also go by the
    name others give it (`d_model` for `hidden_dim`).
    """
    groups = _grouped(runs, [hyperparameter])
    _require_somewhere(groups, metric)
    rows = []
    for (value,), members in groups:
        figures = [_figure(one.history, metric, how, thresholds) for one in members if one.counts]
        spread = _spread(figures)
        rows.append(
            {hyperparameter: value}
            | {key: spread[key] for key in ("mean", "std", "count")}
            | {"missing": len(members) - spread["count"]}
        )
    return _table(rows, [hyperparameter])


def sweep_summary(
    runs: Iterable[Recorded],
    hyperparameters: Sequence[str],
    metrics: Sequence[str] = ("test_acc",),
    *,
    how: How = "final",
    **thresholds: Any,
) -> pa.Table:
    """A row per setting of `hyperparameters`: how many runs, their figures, and when they grokked.

    `runs` counts them all, `failed` those that failed: what they had recorded until then is no
    result, and they are missing from every figure. Each metric (see `group_by`) has
    `<metric>_mean`, `_std`, `_min`, `_max` over the runs with a finite one, and `<metric>_missing`
    counts the others. Of grokked steps: `grokked` counts the runs that grokked and kept it,
    `grokked_lost` those that lost it again (`Phases.lost`), `not_reached` those that never did,
    `grokked_unknown` those without accuracies; `grokked_step_mean`, `_std`, `_min`, `_max` are over
    the first; `grokked_step_median` is over these and those that lost or did not reach it, which
    count as later than any, so null unless more than half grokked and kept it.
    """
    hyperparameters, metrics = _names(hyperparameters), _names(metrics)
    groups = _grouped(runs, hyperparameters)
    for metric in metrics:
        _require_somewhere(groups, metric)
    rows = []
    for values, members in groups:
        tables = [one.history for one in members if one.counts]
        row: dict[str, Any] = dict(zip(hyperparameters, values))
        row |= {"runs": len(members), "failed": len(members) - len(tables)}
        for metric in metrics:
            spread = _spread([_figure(table, metric, how, thresholds) for table in tables])
            row |= {f"{metric}_{key}": spread[key] for key in ("mean", "std", "min", "max")}
            row[f"{metric}_missing"] = len(members) - spread["count"]
        rows.append(row | _grokked([_phases(table, thresholds) for table in tables]))
    return _table(rows, hyperparameters)


def has_grokked(run: History, **thresholds: Any) -> bool:
    """Whether a run's held-out accuracy crossed its threshold and stayed to the end (see `phases`).

    A run that grokked and lost it again did not.
    """
    return phases(run, **thresholds).stayed


def max_epoch(run: History) -> int:
    """The last step recorded."""
    return history_of(run)["step"][-1].as_py()


def group_of(name: str) -> str:
    """A run's group: its name without the seed or member number at its end.

    `p17_lr1e-3_wd1.0_s3`, `..._seed3`, `.../member-3` → `p17_lr1e-3_wd1.0`.
    """
    while (shorter := _MEMBER.sub("", name)) != name:
        name = shorter
    return name


class _Member(NamedTuple):
    """A run of a group: what it recorded, and whether that counts (not where the run failed)."""

    history: pa.Table | None
    counts: bool


def _grouped(
    runs: Iterable[Recorded], hyperparameters: Sequence[str]
) -> list[tuple[tuple[Any, ...], list[_Member]]]:
    """Runs by the values of settings, in order: numbers, text, then those without one."""
    runs = list(named(runs).values())
    if not runs:
        raise UserError("no runs given")
    configs = []
    for run in runs:
        if isinstance(run, pa.Table):
            raise UserError("a table has no settings to group by; give runs or logs")
        configs.append(config_of(run))
    for name in hyperparameters:
        if all(setting(config, name) is None for config in configs):
            known = sorted({key for config in configs for key in config})
            raise UserError(f"{name!r}: no run has this setting{nearest(name, known)}")
    groups: dict[tuple[Any, ...], list[_Member]] = {}
    values: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for run, config in zip(runs, configs):
        found = tuple(_plain(setting(config, name)) for name in hyperparameters)
        key = tuple(_order(value) for value in found)
        groups.setdefault(key, []).append(_Member(history_if_any(run), not has_failed(run)))
        values.setdefault(key, found)
    return [(values[key], groups[key]) for key in sorted(groups)]


def _require_somewhere(groups: Iterable[tuple[Any, list[_Member]]], metric: str) -> None:
    """Refuse a metric that no run has: a table of nulls would hide a slip of the pen."""
    known = {
        name
        for _, members in groups
        for one in members
        if one.history is not None
        for name in one.history.column_names
    }
    if metric not in known and metric not in _PHASES:
        raise UserError(f"{metric!r}: no run has this figure{nearest(metric, sorted(known))}")


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _order(value: Any) -> tuple[int, float, str]:
    """A key that sorts and tells values apart: True is not 1, but 1 is 1.0."""
    if value is None:
        return 3, 0.0, ""
    if isinstance(value, bool):
        return 1, float(value), ""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 2, 0.0, str(value)


def _figure(
    table: pa.Table | None, metric: str, how: How, thresholds: Mapping[str, Any]
) -> float | None:
    """A run's one figure; None where it has none, or one that is not finite."""
    if how not in ("final", "min", "max", "mean"):
        raise UserError(f"how = {how!r}: expected final, min, max or mean")
    if metric in _PHASES:
        found = _phases(table, thresholds)
        gone = found is not None and found.lost is not None and metric in _OF_KEPT
        value = None if gone else getattr(found, metric, None)
        return None if value is None else float(value)
    if table is None or metric not in table.column_names:
        return None
    values = table[metric].drop_null().to_numpy().astype(np.float64)
    if how == "final":
        values = values[-1:]
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    return float(values[-1] if how == "final" else getattr(np, how)(values))


def _phases(table: pa.Table | None, thresholds: Mapping[str, Any]) -> Phases | None:
    """A run's phases; None where it has recorded no accuracies, or none held out was ever measured."""
    if table is None or not was_evaluated(table):
        return None
    return phases(table, **thresholds)


def _spread(figures: Sequence[float | None]) -> dict[str, Any]:
    there = np.array([figure for figure in figures if figure is not None])
    return {
        "count": there.size,
        "mean": float(there.mean()) if there.size else None,
        "std": float(there.std(ddof=1)) if there.size > 1 else None,
        "min": float(there.min()) if there.size else None,
        "max": float(there.max()) if there.size else None,
    }


def _grokked(found: Sequence[Phases | None]) -> dict[str, Any]:
    there = [one for one in found if one is not None]
    known = [one.grokked if one.stayed else None for one in there]
    reached = [step for step in known if step is not None]
    lost = sum(one.lost is not None for one in there)
    spread = _spread(reached)
    median = None
    if len(reached) > len(known) / 2:
        median = float(np.median([np.inf if step is None else step for step in known]))
    return {
        "grokked": len(reached),
        "grokked_lost": lost,
        "not_reached": len(known) - len(reached) - lost,
        "grokked_unknown": len(found) - len(known),
        "grokked_step_mean": spread["mean"],
        "grokked_step_std": spread["std"],
        "grokked_step_min": spread["min"],
        "grokked_step_max": spread["max"],
        "grokked_step_median": median,
    }


def _table(rows: Sequence[Mapping[str, Any]], settings: Sequence[str]) -> pa.Table:
    """Rows as a table; a setting whose values are of several kinds becomes text."""
    columns: dict[str, pa.Array] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in settings:
            kinds = {type(value) for value in values if value is not None}
            if len(kinds) > 1 and not kinds <= {int, float}:
                values = [
                    None if v is None else v if type(v) is str else json.dumps(v) for v in values
                ]
            elif kinds == {int, float}:
                values = [None if value is None else float(value) for value in values]
            columns[name] = pa.array(values)
        else:
            whole = all(isinstance(value, int) for value in values)
            columns[name] = pa.array(values, pa.int64() if whole else pa.float64())
    return pa.table(columns)


def _names(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _require(table: pa.Table, metric: str, name: str) -> None:
    if metric not in table.column_names:
        raise UserError(
            f"{name}: its history has no {metric!r}{nearest(metric, table.column_names)}"
        )
