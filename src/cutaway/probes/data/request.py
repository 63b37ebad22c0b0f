"""What is asked of probing: the method, its strengths, the controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest

if TYPE_CHECKING:
    from cutaway.nets.model import Model
    from cutaway.probes.data.examples import ProbeData

CONTROLS = ("shuffled", "token_type", "current_token", "untrained", "mass_mean", "model")
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
SOLVED = ("exact", "mass_mean")  # methods that are not trained by steps


@dataclass(frozen=True)
class Asked:
    """How to probe: see `ProbeConfig`, whose fields of these names they are."""

    method: str = "exact"
    strengths: Sequence[float] = STRENGTHS
    controls: Sequence[str] = CONTROLS
    pos_weight_cap: float = 5.0
    seed: int = 0


def chosen_controls(names: str | Sequence[str]) -> list[str]:
    """The controls of `all`, `none`, or names with commas between; UserError for an unknown one."""
    asked = names.split(",") if isinstance(names, str) else list(names)
    if wrong := [one for one in asked if not isinstance(one, str)]:
        raise TypeError(f"controls: expected names, got {type(wrong[0]).__name__}")
    asked = [one.strip().replace("-", "_") for one in asked if one.strip()]
    if asked in (["all"], ["none"]):
        return list(CONTROLS) if asked == ["all"] else []
    for one in asked:
        if one not in CONTROLS:
            raise UserError(
                f"controls = {one!r}: expected all, none, or some of {', '.join(CONTROLS)}"
                f"{nearest(one, CONTROLS)}"
            )
    return list(dict.fromkeys(asked))


def usable_controls(
    asked: Sequence[str], data: ProbeData, model: Model, method: str = "exact"
) -> list[str]:
    """Those of the controls that mean something for this task, model and method; of the others a notice
    says why. Where all were asked for it tells only of those that the model cannot give, not of those
    the task or the method has no use for."""
    left, of_model = {}, set()
    if method not in SOLVED:  # a linear solution's selectivity is not that of what was trained
        reason = (
            "random labels are solved for the methods exact and mass_mean, not trained by steps"
        )
        left |= dict.fromkeys(("shuffled", "token_type"), reason)
    if method == "mass_mean":
        left["mass_mean"] = "is the method itself"
    if not data.of_tokens:  # a text's state belongs to no one token
        left |= dict.fromkeys(("token_type", "current_token"), "a text's mean state has no token")
    if data.task != "next":
        left["model"] = "the model's own probability is of the next token"
    elif not model.abilities.predicts:
        left["model"] = str(model.abilities.why_not)
        of_model.add("model")
    for one in asked:
        if one in left and (one in of_model or set(asked) != set(CONTROLS)):
            notice(f"controls: {one} is left out: {left[one]}")
    return [one for one in asked if one not in left]
