"""What the arms of a study came to: a row per run, and per arm with intervals over seeds.

Arms are compared seed by seed with the baseline run, of any target, whose L0 is nearest to theirs, if it
is within 5 %: at one target arms may end at L0s so far apart that this alone would tell. A run is
matched if there is such a baseline run; the baseline itself, if it is within 5 % of its target or some
other arm's run is near it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.orthogonality.experiment import BASELINE, arm_of
from cutaway.runs.folder import Run
from cutaway.stats.bootstrap import paired_difference, seed_interval
from cutaway.sweeps.definition import read_definition

if TYPE_CHECKING:
    import pyarrow as pa

MATCHED = 0.05  # how far L0 may be off
# What is compared, under the names of a run's final figures, and how it is called.
MEASURES = {
    "absorption": "absorption",
    "parents_missing": "parents_missing",
    "mmcs": "mmcs",
    "matched_f1": "matched_f1",
    "val_explained_variance": "explained_variance",
    "val_l0": "l0",
    "val_dead_share": "dead_share",
    "decoder_max_cosine": "decoder_max_cosine",
}


@dataclass(frozen=True)
class Comparison:
    """`runs`: a row per run, figures and all; `arms`: a row per target L0 and arm."""

    runs: list[dict[str, Any]]
    arms: list[dict[str, Any]]


def compared(folder: Path, more: Mapping[str, Mapping[str, float]] | None = None) -> Comparison:
    """The finished runs of a study's folder side by side.

    `more` adds figures to runs by name (sparse probing). Each arm's row has for every measure its
    mean over seeds with a 95 % interval (`_low`, `_high`), and `<measure>_change`: the mean
    difference to the baseline on the same seeds, with its interval and `_within_noise` where that
    holds 0. Raises UserError where no run is done.
    """
    sweep = read_definition(folder)
    if sweep is None:
        raise UserError(f"{folder}: holds no study (no sweep.yaml there)")
    rows = []
    for one in sweep.runs:
        try:
            row = _row(folder / one.name, one.swept)
        except UserError as error:  # one odd run: named and left out
            notice(f"{error}; left out of the comparison")
            continue
        if row is not None:
            rows.append(row | dict((more or {}).get(one.name, {})))
    if not rows:
        raise UserError(f"{folder}: no run of the study is done")
    match(rows)
    return Comparison(rows, _arms(rows))


def finished(folder: Path) -> Run | None:
    """The run in a folder; None where it has not come to its end, or there is none."""
    try:
        run = Run.open(folder)
    except UserError:
        return None
    return run if run.status == "done" else None


def _row(folder: Path, swept: Mapping[str, Any]) -> dict[str, Any] | None:
    """A finished run's figures; None for one that is not done."""
    if (run := finished(folder)) is None:
        return None
    history = run.read("history")
    metrics, target = run.record.metrics, float(swept["target_l0"])
    found = {
        name: metrics[key]
        for key, name in MEASURES.items()
        if metrics.get(key) is not None and math.isfinite(metrics[key])
    }
    if history is None or "l0" not in found:
        raise UserError(f"{folder}: is done without a history and a finite val_l0")
    return {
        "run": folder.name,
        "arm": arm_of(folder.name),
        "target_l0": target,
        "seed": swept["seed"],
        "steps": run.record.steps_done,
        **found,
        **_penalty(history),
        "ms_per_step": _milliseconds(history),
    }


def match(rows: Sequence[dict[str, Any]]) -> None:
    """Set each row's `matched` and `beside`, the run it is compared with (None: none is near); from
    its `run`, `arm`, `seed`, `target_l0` and `l0`."""
    wanted = set()
    for row in rows:
        base = [
            one
            for one in rows
            if one["arm"] == BASELINE and one["seed"] == row["seed"] and math.isfinite(one["l0"])
        ]
        nearest = min(base, key=lambda one: abs(one["l0"] - row["l0"]), default=None)
        near = nearest is not None and _near(row["l0"], nearest["l0"])
        row["matched"] = near
        row["beside"] = nearest["run"] if near and row["arm"] != BASELINE else None
        wanted.add(row["beside"])
    for row in rows:
        if row["arm"] == BASELINE:
            row["matched"] = row["run"] in wanted or _near(row["l0"], row["target_l0"])


def _near(l0: float, wanted: float) -> bool:
    return bool(abs(l0 / wanted - 1) <= MATCHED)


def _penalty(history: pa.Table) -> dict[str, float]:
    """`orthogonality_loss`, the weighted penalty: its mean over the last fifth of the recorded
    rows, as that of one batch jumps about; nothing for a run without one."""
    if "orthogonality_loss" not in history.column_names:
        return {}
    values = history["orthogonality_loss"].drop_null().to_numpy()
    return {"orthogonality_loss": float(values[-max(1, len(values) // 5) :].mean())}


def _milliseconds(history: pa.Table) -> float:
    """Time of a step, ms: the 10th percentile over the stretches between recorded rows, which
    leaves out those with an evaluation or a checkpoint, and most of what others did meanwhile."""
    step, seconds = (history[name].to_numpy() for name in ("step", "seconds"))
    gaps = np.diff(seconds) / np.maximum(np.diff(step), 1)
    return float(1e3 * np.percentile(gaps, 10)) if len(gaps) else float("nan")


def _arms(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    figures = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in ("run", "arm", "target_l0", "seed", "steps", "matched", "beside")
    ]
    found = []
    runs = {row["run"]: row for row in rows}
    for target in dict.fromkeys(row["target_l0"] for row in rows):
        here = [row for row in rows if row["target_l0"] == target]
        for arm in dict.fromkeys(row["arm"] for row in here):
            own = [row for row in here if row["arm"] == arm and row["matched"]]
            line: dict[str, Any] = {"arm": arm, "target_l0": target, "seeds": len(own)}
            line["unmatched"] = sum(row["arm"] == arm and not row["matched"] for row in here)
            for name in figures:
                line |= _figure(name, own, runs)
            found.append(line)
    return found


def _figure(
    name: str, own: Sequence[Mapping[str, Any]], runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A measure over seeds, and what it changed against the baseline runs beside."""
    values = [row[name] for row in own if _known(name, row)]
    if not values:
        return {}
    mean, low, high = seed_interval(values)
    found: dict[str, Any] = {name: mean, f"{name}_low": low, f"{name}_high": high}
    both = [
        (row[name], runs[row["beside"]][name])
        for row in own
        if row["beside"] is not None and _known(name, row, runs[row["beside"]])
    ]
    if both:
        change = paired_difference(*zip(*both))
        found[f"{name}_change"] = change.mean
        found[f"{name}_change_low"], found[f"{name}_change_high"] = change.low, change.high
        found[f"{name}_within_noise"] = change.within_noise
    return found


def _known(name: str, *rows: Mapping[str, Any]) -> bool:
    return all(row.get(name) is not None and np.isfinite(row[name]) for row in rows)
