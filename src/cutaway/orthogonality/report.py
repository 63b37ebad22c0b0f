"""A study's folder: its tables and pictures, beside its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import display, files
from cutaway.base.errors import UserError
from cutaway.orthogonality.comparison import Comparison, compared, finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.labelled.texts import LabelledTexts

RUNS, ARMS, JSON = "results.csv", "comparison.csv", "comparison.json"
# What the table for people shows of an arm; files and --json have all.
COLUMNS = (
    *("arm", "target_l0", "seeds", "unmatched", "l0", "explained_variance", "absorption", "change"),
    *("mmcs", "probing_1", "decoder_max_cosine", "dead_share", "ms_per_step"),
)


def write(
    folder: Path, tasks: Sequence[LabelledTexts] | None = None, *, probing: bool
) -> Comparison:
    """Compare the study's finished runs and write results.csv (a row per run), comparison.csv and
    comparison.json (a row per arm); with `probing` sparse probing of each run's dictionary too."""
    more = probed(folder, tasks) if probing else {}
    comparison = compared(folder, more)
    unmatched = [row["run"] for row in comparison.runs if not row["matched"]]
    if unmatched:
        display.notice(
            f"{len(unmatched)} of {len(comparison.runs)} runs have no baseline within 5 % of their L0 "
            f"and stay out of the comparison ({unmatched[0]}, ...): add target L0s to compare at "
            "(--l0), or train longer in another --out (--max-steps)"
        )
    files.write_text(folder / RUNS, display.csv_text(comparison.runs))
    files.write_text(folder / ARMS, display.csv_text(comparison.arms))
    files.write_json(folder / JSON, {"format": 1, **display.finite(comparison.__dict__)})
    return comparison


def shown(arms: Sequence[Mapping[str, Any]], format: display.Format) -> list[dict[str, Any]]:
    """The arms' rows; for people with one cell a measure: its mean and half its interval, and what
    absorption changed, `~` before a difference within noise."""
    if format != "table":
        return [dict(one) for one in arms]
    return [_for_people(one) for one in arms]


def _for_people(arm: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in COLUMNS:
        value = arm.get(name)
        high = arm.get(f"{name}_high")
        if high is not None and math.isfinite(high):
            row[name] = f"{value:.3g} ± {high - value:.1g}"
        elif value is not None:
            row[name] = value
    if (change := arm.get("absorption_change")) is not None:
        mark = "~" if arm["absorption_within_noise"] else ""
        row["change"] = f"{mark}{change:+.3f}"
    return row


def probed(
    folder: Path, tasks: Sequence[LabelledTexts] | None = None
) -> dict[str, dict[str, float]]:
    """Sparse probing of every finished run's dictionary: `probing_1`, `probing_5`, the mean test
    accuracy over the tasks with 1 and 5 features; kept in each run as its table `suite`."""
    from cutaway.evaluations.suite.run import mean_of
    from cutaway.sweeps.definition import read_definition
    from cutaway.workbench.suite import judged

    sweep = read_definition(folder)
    found = {}
    for one in () if sweep is None else sweep.runs:
        path = folder / one.name
        if not finished(path):
            continue
        try:
            rows = judged(path, ["sparse_probing"], tasks=tasks)
        except UserError as error:
            display.notice(f"{one.name}: not probed: {error}")
            continue
        found[one.name] = {f"probing_{k}": mean_of(rows, k) for k in (1, 5)}
    return found


def figures(folder: Path, comparison: Comparison) -> dict[str, Figure]:
    """The study's pictures by name, saved as figures/NAME.png too."""
    from cutaway.figures.look import save
    from cutaway.orthogonality.pictures import study_figures

    drawn = study_figures(folder, comparison)
    for name, figure in drawn.items():
        save(figure, folder / "figures" / f"{name}.png")
    return drawn
