"""The orthogonality station: a known hierarchy, and whether pushing features apart saves parents."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean
from typing import Any

from cutaway.base.display import notice
from cutaway.base.errors import Interrupted, RunFailed
from cutaway.base.hardware import threads
from cutaway.figures.html import Picture, Section, Table

ARMS = ("tau-0", "random")
FRACTION, L0, STEPS = 0.05, 2.9, 2000
SETTINGS: dict[str, Any] = {
    "synthetic": "hierarchy",
    "parents": 12,
    "children": 3,
    "d_model": 40,
    "d_hidden": 64,
    "architecture": "jumprelu",
    "batch_size": 512,
    "learning_rate": 3e-3,
    "dead_after": 20_000,
    "kernels": "dense",
    "topk_fraction": FRACTION,
    "eval_tokens": 8192,
}
_NAMES = {
    "none": "no penalty",
    "tau-0": "pairs that fire together most",
    "random": "as many, at random",
}


def visit(out: Path, fast: bool) -> list[Section]:
    """Two seeds of three arms side by side; what became of the parents."""
    from cutaway.orthogonality import experiment as orthogonality
    from cutaway.orthogonality import report
    from cutaway.sweeps.run import run_sweep

    folder, steps = out / "orthogonality", STEPS // 10 if fast else STEPS
    settings = {**SETTINGS, "max_steps": steps}
    planned = orthogonality.sweep(
        settings, width=40, arms=ARMS, seeds=(0, 1), target_l0s=(L0,), name="orthogonality"
    )
    notice(f"{len(planned.runs)} dictionaries of a known hierarchy, {steps} steps each")
    swept = run_sweep(planned, folder, jobs=min(2, threads()))
    if swept.signal is not None:
        raise Interrupted(f"{folder}: stopped", swept.signal)
    if swept.unfinished:
        raise RunFailed(f"{folder}: {swept.unfinished[0]['run']}: {swept.unfinished[0]['reason']}")
    comparison = report.write(folder, probing=False)
    figures = report.figures(folder, comparison)
    rows = [_row(arm, comparison.runs) for arm in _NAMES]
    return [
        Section(
            "Parents absorbed by their children",
            "States made of 12 known parent features with 3 children each, which never come without "
            "their parent. A sparse dictionary saves a feature by letting a child's feature stand "
            "for its parent too: the parent is then absorbed, and its own feature is silent where it "
            "should not be. A penalty on the cosines of decoder rows pushes pairs of features apart; "
            "here those that fire together most, or as many at random. Mean of two seeds, a first "
            "look: what five seeds and more features say is in docs/dictionaries.md. Absorption is "
            "counted exactly, from what the states are made of; L0 is features per token.",
            pictures=[
                Picture(figures["training_comparison"], "The three arms while they learn (seed 0).")
            ],
            table=Table(rows),
            commands="cutaway sae study orthogonality --synthetic --out out/study --jobs 2\n"
            f"cutaway sweep {os.path.relpath(folder)} --resume",
        )
    ]


def _row(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """An arm's mean over its runs, matched or not: L0 stands beside it."""
    own = [run for run in runs if run["arm"] == arm]
    names = ("absorption", "explained_variance", "l0", "mmcs", "decoder_max_cosine")
    return {"pushed apart": _NAMES[arm], **{n: fmean(run[n] for run in own) for n in names}}
