"""Does pushing apart features that fire together make them absorb less? The arms, and their sweep.

Each arm is trained at the same target L0s with the same seeds (which also draw the data, and the
truth where it is synthetic), so that arms are compared pairwise. It is a sweep like any other:
`cutaway sweep` shows, resumes and draws it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutaway.base.errors import UserError, nearest
from cutaway.sweeps.grid import Sweep, expand

BASELINE = "none"
# What each arm changes; everything else is shared.
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {"orthogonality": None},
    "tau-0.05": {"orthogonality": "top_k", "tau": 0.05},
    "tau-0.1": {"orthogonality": "top_k", "tau": 0.1},
    "tau-0.3": {"orthogonality": "top_k", "tau": 0.3},
    "adaptive": {"orthogonality": "top_k", "tau_adaptive": True},
    "fraction-1e-4": {"orthogonality": "top_k", "tau": 0.1, "topk_fraction": 1e-4},
    "fraction-1e-2": {"orthogonality": "top_k", "tau": 0.1, "topk_fraction": 1e-2},
    "random": {"orthogonality": "random", "tau": 0.1},
    "ortsae": {"orthogonality": "all_pairs"},
}
_SEEDED = ("seed", "data_seed", "truth_seed")


def sweep(
    shared: Mapping[str, Any],
    *,
    arms: Sequence[str] = tuple(ARMS),
    seeds: Sequence[int] = (0, 1, 2),
    target_l0s: Sequence[float],
    name: str = "orthogonality",
) -> Sweep:
    """The runs of the study: arms × target L0s × seeds, with `shared` settings.

    The baseline is always among the arms. Raises UserError for an unknown arm, no seed, no L0, or
    a shared setting that the arms vary.
    """
    for arm in arms:
        if arm not in ARMS:
            known = ", ".join(ARMS)
            raise UserError(f"arms: {arm!r}: expected some of {known}{nearest(arm, ARMS)}")
    if not seeds:
        raise UserError("seeds: none given; expected one or more numbers")
    if not target_l0s:
        raise UserError("target_l0: none given; expected one or more numbers")
    chosen = dict.fromkeys((BASELINE, *arms))
    varied = {field for arm in chosen for field in ARMS[arm]}
    # a shared setting of the penalty holds where an arm does not say otherwise
    given = {field: value for field, value in shared.items() if field in varied}
    runs = [{"name": arm, **_completed(ARMS[arm], given)} for arm in chosen]
    common = {field: value for field, value in shared.items() if field not in varied}
    for field in (*_SEEDED, "target_l0"):
        if field in common:
            raise UserError(f"{field}: the study varies it; give --seeds and --l0 instead")
    values = {
        "runs": runs,
        "sweep": {
            "target_l0": [float(one) for one in dict.fromkeys(target_l0s)],
            ", ".join(_SEEDED): [[seed] * len(_SEEDED) for seed in dict.fromkeys(seeds)],
        },
        **common,
    }
    return expand(values, "dictionary", name)


def arm_of(run_name: str) -> str:
    """The arm a run of the study belongs to: names begin with it."""
    return run_name.partition("_")[0]


def _completed(arm: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's fields and, where it has the penalty, the shared ones it does not set."""
    if arm["orthogonality"] is None:
        return dict(arm)
    return {**given, **arm}
