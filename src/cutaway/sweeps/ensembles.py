"""Which runs of a sweep train together as one stacked program, and which each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.runs.folder import Run
from cutaway.sweeps.grid import SweepRun

LARGEST = 32  # members of a stack: more add memory, no speed


def units(
    runs: Sequence[SweepRun], ensemble: bool | None, out: Path, jobs: int = 1
) -> list[list[SweepRun]]:
    """The runs in groups that train together, in the order of each group's first run.

    Runs stack where their configs have the same `stack_key`; runs that
    were begun do not join new ones, and a run that failed is tried again alone. `ensemble`:
    True stacks all that can be (UserError where no two can), False none, None where the configs
    expect it to be faster. Every one of `jobs` workers gets its share of a group.
    """
    groups: dict[object, list[SweepRun]] = {}
    for run in runs:
        key = None if ensemble is False else run.config.stack_key()
        if key is not None and ensemble is None and not run.config.faster_stacked():
            key = None
        state = _state(out / run.name)
        if key is None or state == "failed":
            groups[(run.name,)] = [run]
        else:
            groups.setdefault((key, state), []).append(run)
    if ensemble and all(len(group) == 1 for group in groups.values()):
        raise UserError(
            f"ensemble: no two of these {len(runs)} runs can be stacked (same network and data "
            "size; only rates, decay, betas, seeds and epochs may differ); leave --ensemble out"
        )
    return [unit for group in groups.values() for unit in _shares(group, jobs)]


def _shares(group: list[SweepRun], jobs: int) -> Iterable[list[SweepRun]]:
    """A group in equal parts: one for each worker, none larger than `LARGEST`."""
    count = min(len(group), max(jobs, -(-len(group) // LARGEST)))
    for index in range(count):
        yield group[index * len(group) // count : (index + 1) * len(group) // count]


def _state(folder: Path) -> str:
    """`new`, `begun`, or `failed`."""
    if not (folder / "run.json").is_file():
        return "new"
    try:
        run = Run.open(folder)
    except UserError:  # damaged: its own failure
        return "failed"
    if run.status == "failed":
        return "failed"
    return "begun"
