"""Does pushing apart features that fire together make them absorb less? The arms, and their sweep.

Each arm is trained at the same target L0s with the same seeds (which also draw the data, and the
truth where it is synthetic), so that arms are compared pairwise. It is a sweep like any other:
`cutaway sweep` shows, resumes and draws it too.

The penalty is a mean over pairs, so one weight would push each pair of a larger selection less.
Arms are to differ in which pairs are pushed and from what cosine on, not in how hard: the weight is
`push` for every selected pair, and in OrtSAE's arm `all_pairs_push` for every feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutaway.base.errors import UserError, nearest
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.sweeps.grid import Sweep, expand

BASELINE = "none"
# What each arm changes; everything else is shared. `times`: of the shared topk_fraction.
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {"orthogonality": None},
    "tau-0": {"orthogonality": "top_k", "tau": 0.0},
    "tau-0.05": {"orthogonality": "top_k", "tau": 0.05},
    "tau-0.1": {"orthogonality": "top_k", "tau": 0.1},
    "tau-0.3": {"orthogonality": "top_k", "tau": 0.3},
    "adaptive": {"orthogonality": "top_k", "tau": 0.1, "tau_adaptive": True},
    "fraction-tenth": {"orthogonality": "top_k", "times": 0.1},
    "fraction-tenfold": {"orthogonality": "top_k", "times": 10.0},
    "random": {"orthogonality": "random"},
    "ortsae": {"orthogonality": "all_pairs"},
}
PUSH, ALL_PAIRS_PUSH = 1.0, 0.1
_SEEDED = ("seed", "data_seed", "truth_seed")
_WEIGHT = "orthogonality_weight"


def sweep(
    shared: Mapping[str, Any],
    *,
    width: int,
    arms: Sequence[str] = tuple(ARMS),
    seeds: Sequence[int] = (0, 1, 2),
    target_l0s: Sequence[float],
    push: float = PUSH,
    all_pairs_push: float = ALL_PAIRS_PUSH,
    name: str = "orthogonality",
) -> Sweep:
    """The runs of the study: arms × target L0s × seeds, with `shared` settings, of states `width`
    wide.

    The baseline is always among the arms. Arms without a τ of their own take the shared one (0
    where none is given: the strictest). Raises UserError for an unknown arm, no seed, no L0, or a
    shared setting that the arms vary.
    """
    for arm in arms:
        if arm not in ARMS:
            known = ", ".join(ARMS)
            raise UserError(f"arms: {arm!r}: expected all, or some of {known}{nearest(arm, ARMS)}")
    for what, values in (("seeds", seeds), ("l0", target_l0s)):
        if not values:
            raise UserError(f"{what}: none given; expected one or more numbers")
    for field in (*_SEEDED, "target_l0", "orthogonality", _WEIGHT):
        if shared.get(field) is not None:
            raise UserError(f"{field}: the study varies it; see --seeds, --l0, --arms and --push")
    given = {"tau": 0.0, **{k: v for k, v in shared.items() if k in _penalty_fields()}}
    common = {k: v for k, v in shared.items() if k not in _penalty_fields() and v is not None}
    # else each run would take what was faster at its start, and arms differ by that too
    common.setdefault("precision", "float32")
    features = DictionaryConfig(**common).sized(width, 1_000_000).d_hidden
    pushes = (push, all_pairs_push)
    runs = [
        {"name": arm, **_fields(ARMS[arm], given, features, pushes)}
        for arm in dict.fromkeys((BASELINE, *arms))
    ]
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


def _fields(
    arm: Mapping[str, Any], given: Mapping[str, Any], features: int, pushes: tuple[float, float]
) -> dict[str, Any]:
    """An arm's settings: its own, else the shared ones, and the weight its pairs come to."""
    if arm["orthogonality"] is None:
        return dict(arm)
    fields = {**given, **arm}
    usual = OrthogonalityFields.model_fields["topk_fraction"].default
    fraction = fields.get("topk_fraction", usual) * fields.pop("times", 1.0)
    fields["topk_fraction"] = min(1.0, fraction)
    push = pushes[fields["orthogonality"] == "all_pairs"]
    wanted = OrthogonalityFields(**fields).pairs_wanted(features)
    return {**fields, _WEIGHT: push * wanted}


def _penalty_fields() -> set[str]:
    return set(OrthogonalityFields.model_fields)
