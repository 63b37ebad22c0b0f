"""Why a figure of a dictionary's evaluation is missing: one reason for each that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cutaway.nets.check import NEXT_TOKEN, OF_LOGITS

_SPREAD = ("explained_variance", "explained_variance_with_first")
_STATES = {"spliced": "rewritten", "zero": "set to zero", "mean": "set to their mean"}
OF_NO_MODEL = "synthetic states are of no model"


def reasons(
    figures: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, float]],
    known: Mapping[str, str],
) -> dict[str, str]:
    """By the name of every figure that is missing, the reason.

    `figures` and `baselines` as `evaluation.Evaluation` has them; `known` are reasons that apply
    whatever came out, such as those of a model without a head. A baseline's figure is named
    `pca.ce_recovered`, and only where the dictionary itself has that figure.
    """
    found = dict(known)
    for name, value in figures.items():
        if _missing(value) and name not in found:
            found[name] = _reason(name, figures)
    for baseline, its in baselines.items():
        for name, value in its.items():
            same = "ce_spliced" if name == "ce" else name  # as the dictionary's own is called
            if _missing(value) and same not in found:
                found[f"{baseline}.{name}"] = _of_baseline(name, baseline, its)
    return found


def lines(
    evaluations: Iterable[tuple[str, Mapping[str, str]]], names: Mapping[str, str]
) -> list[str]:
    """One line for each reason: which figures of which dictionaries are missing for it.

    `evaluations`: of each its site and what `reasons` gave; `names`: what a table calls the
    figures it shows. Others are not in the lines.
    """
    grouped: dict[tuple[str, str], list[str]] = {}
    for site, left_out in evaluations:
        by_reason: dict[str, list[str]] = {}
        for figure, why in left_out.items():
            coder, _, bare = figure.rpartition(".")
            if bare in names:
                shown = f"{names[bare]} of {coder.replace('_', ' ')}" if coder else names[bare]
                by_reason.setdefault(why, []).append(shown)
        for why, shown_names in by_reason.items():
            sites = grouped.setdefault((", ".join(shown_names), why), [])
            if site not in sites:
                sites.append(site)
    return [f"{', '.join(sites)}: {what} left out: {why}" for (what, why), sites in grouped.items()]


# -- inside ----------------------------------------------------------------------------------------


def _missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _reason(name: str, figures: Mapping[str, Any]) -> str:
    if name in _SPREAD and math.isnan(figures[name]) and _finite(figures["normalised_mse"]):
        some = "only one token counts" if figures["tokens"] == 1 else "the states are all the same"
        return f"{some}, so there is no variance to explain"
    if name in (*NEXT_TOKEN, *OF_LOGITS):
        return _of_model(name, figures)
    return _not_finite(figures[name], "it")


def _of_model(name: str, figures: Mapping[str, Any]) -> str:
    clean, zero, kl_zero = figures["ce_clean"], figures["ce_zero"], figures["kl_zero"]
    if math.isnan(clean) and math.isnan(kl_zero):
        return "the model's logits are not finite at any token that counts"
    if name in NEXT_TOKEN and math.isnan(clean):
        return "no token that counts has a token after it in its context"
    if name in NEXT_TOKEN and math.isinf(clean):
        return "the model gives a token of the text probability 0"
    if name == "ce_recovered" and _finite(zero) and zero <= clean:
        return (
            f"setting the states to zero does not raise the loss ({zero:.4g} nats against "
            f"{clean:.4g}), so there is nothing to recover"
        )
    if name == "kl_recovered" and _finite(kl_zero) and kl_zero <= 0:
        return (
            "setting the states to zero does not change what the model predicts, so there is "
            "nothing to recover"
        )
    pair = ("ce_zero", "ce_spliced") if name in NEXT_TOKEN else ("kl_zero", "kl")
    own = {"kl": "spliced", "ce_recovered": "", "kl_recovered": ""}.get(name, name[3:])
    if not own:  # of two conditions, the one that is not finite
        own = "zero" if not _finite(figures[pair[0]]) else "spliced"
    return f"the model's logits are not finite with the states {_STATES[own]}"


def _of_baseline(name: str, baseline: str, its: Mapping[str, float]) -> str:
    words = {"pca": "principal components"}.get(baseline, baseline.replace("_", " "))
    if name in ("ce", "ce_recovered", "kl", "kl_recovered"):
        return f"the model's logits are not finite with the states rewritten by {words}"
    return _not_finite(its[name], f"that of {words}")


def _not_finite(value: float, what: str) -> str:
    kind = "not a number" if math.isnan(value) else "infinite"
    return (
        f"{what} is {kind} in float64 arithmetic: the reconstructions or the states are too large"
    )


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
