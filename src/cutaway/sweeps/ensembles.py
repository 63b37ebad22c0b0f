"""Which runs of a sweep train together as one stacked program, and which each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.runs.folder import Run
from cutaway.runs.record import TOGETHER
from cutaway.sweeps.grid import SweepRun

LARGEST = 32  # members of a stack: more add memory, no speed


def units(
    runs: Sequence[SweepRun], ensemble: bool | None, out: Path, jobs: int = 1
) -> list[list[SweepRun]]:
    """The runs that are left in groups that train together, in the order of each group's first run.

    New runs stack where their configs have the same `stack_key`; every one of `jobs` workers gets
    its share of a group. Runs that were begun go on with those they were begun with, so that they
    come out the same; what failed is tried again alone. `ensemble`: True stacks all that can be,
    False none, None where the configs expect it to be faster.
    """
    groups: dict[tuple[object, ...], list[SweepRun]] = {}
    for run in runs:
        key = None if ensemble is False else run.config.stack_key()
        state, stack = _state(out / run.name)
        if state == "begun":
            key = key and stack  # begun alone: goes on alone
        elif key is not None and ensemble is None and not run.config.faster_stacked():
            key = None
        if key is None or state == "failed":
            groups[(run.name,)] = [run]
        else:
            groups.setdefault((state, key), []).append(run)
    return [
        unit
        for key, group in groups.items()
        for unit in ([group] if key[0] == "begun" else _shares(group, jobs))
    ]


def require_stackable(runs: Sequence[SweepRun]) -> None:
    """Refuse an ensemble of runs of which no two have the same shapes."""
    keys = [key for run in runs if (key := run.config.stack_key()) is not None]
    if len(set(keys)) == len(keys):
        raise UserError(
            f"ensemble: no two of these {len(runs)} runs can be stacked (same network and data "
            "size; only rates, decay, betas and seeds may differ, and epochs where checkpoint_every "
            "and, of a routed network, save_routing_every are given); leave --ensemble out"
        )


def _shares(group: list[SweepRun], jobs: int) -> Iterable[list[SweepRun]]:
    """A group in equal parts: one for each worker, none larger than `LARGEST`."""
    count = min(len(group), max(jobs, -(-len(group) // LARGEST)))
    for index in range(count):
        yield group[index * len(group) // count : (index + 1) * len(group) // count]


def _state(folder: Path) -> tuple[str, tuple[str, ...] | None]:
    """`new`, `begun` or `failed`, and the names of the runs it was begun together with.

    A run without a checkpoint begins anew in any case, and so may join others that do.
    """
    if not (folder / "run.json").is_file():
        return "new", None
    try:
        run = Run.open(folder)
    except UserError:  # damaged: its own failure
        return "failed", None
    if run.status == "failed":
        return "failed", None
    if not run.checkpoints.steps():
        return "new", None
    together = run.record.resolved.get(TOGETHER)
    return "begun", None if together is None else tuple(together)
